"""What git and DVC hold of one commit: its tables, its dvc.lock, and every object that these name.

Reads only: works beside a running retrain, and on a copy that cannot be written to.
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import yaml

from pipelines import manifest, object_stores, versioning
from pipelines.errors import LclscError, StageError, StoreUnreachableError
from pipelines.files import sha256_bytes
from pipelines.manifest import Video
from pipelines.workspace import Workspace

TABLES = ("data/train.csv", "data/test.csv")
DEFAULT_NAME = "lclsc"
"""Of the registered model."""


@dataclass(frozen=True, kw_only=True)
class StoredObject:
    """One DVC object: ``path`` in the workspace, the MD5 that names it, and, where known, its SHA-256."""

    path: str
    md5: str
    remote: str
    sha256: str | None = None


@dataclass(frozen=True)
class Commit:
    workspace: Workspace
    sha: str

    @property
    def label(self) -> str:
        """How messages name it."""
        return f"commit {self.sha[:12]}"

    def read(self, path: str) -> bytes | None:
        """A file of the commit; None where it has none."""
        return versioning.file_at(self.workspace, self.sha, path)

    def text(self, path: str) -> str:
        try:
            return (self.read(path) or b"").decode()
        except UnicodeDecodeError as error:
            raise self._unreadable(path, str(error)) from None

    def document(self, path: str) -> dict[str, Any]:
        """A YAML file of the commit; empty where there is none."""
        try:
            found = _parsed(self.text(path)) or {}
        except yaml.YAMLError as error:
            raise self._unreadable(path, " ".join(str(error).split())) from None
        if not isinstance(found, dict):
            raise self._unreadable(path, "it is no mapping")
        return found

    def _unreadable(self, path: str, why: str) -> StageError:
        cause = f"{path} of {self.label} cannot be read: {why}."
        return StageError("committed_unreadable", cause, "Mend the file and commit it.")

    @cached_property
    def lock(self) -> dict[str, Any]:
        """dvc.lock as parsed; without stages before the first retrain."""
        return self.document("dvc.lock") or {"schema": "2.0", "stages": {}}

    @cached_property
    def params(self) -> dict[str, Any]:
        """params.yaml as committed; empty where there is none."""
        return self.document("params.yaml")

    @cached_property
    def videos(self) -> dict[str, Video]:
        return {video.video_id: video for video in manifest.parse_videos(self.text("manifest.csv"))}

    @cached_property
    def splits(self) -> dict[str, str]:
        return manifest.parse_splits(self.text("splits.csv"))

    @cached_property
    def readable_videos(self) -> dict[str, Video]:
        """``videos``; none where the manifest cannot be read, which ``data`` reports."""
        try:
            return self.videos
        except LclscError:
            return {}

    @cached_property
    def patients(self) -> dict[str, str]:
        """video -> patient."""
        return {video.video_id: video.patient_id for video in self.readable_videos.values()}

    @cached_property
    def model_name(self) -> str:
        """``register.name`` as committed: an audit does not trust the working file."""
        section = self.params.get("register", {})
        if not isinstance(section, dict):
            raise self._unreadable("params.yaml", "its section register is no mapping")
        return str(section.get("name", DEFAULT_NAME))

    @cached_property
    def data_version(self) -> str:
        return manifest.version_of(self.videos.values(), self.splits)

    @cached_property
    def outs(self) -> dict[str, dict[str, Any]]:
        """path -> what DVC recorded: outputs of the stages, and the folders taken in."""
        found = [out for stage in self.lock["stages"].values() for out in stage.get("outs", [])]
        for pointer in versioning.POINTERS:
            found += self.document(pointer).get("outs", [])
        return {out["path"]: out for out in found}

    @cached_property
    def default_remote(self) -> str:
        """As set up here; under settings that DVC cannot read either, the name that ``init`` gives."""
        with contextlib.suppress(LclscError):
            return versioning.default_remote(self.workspace)
        return "storage"

    def output(self, path: str) -> bytes | None:
        """The bytes of a stage's single-file output, from cache or remote; None where neither has them intact."""
        out = self.outs.get(path)
        if out is None:
            return None
        return self._intact(out["md5"], out.get("remote", self.default_remote))

    def ask_remote(self, path: str) -> None:
        """StoreUnreachableError where the remote that an output was pushed to cannot be asked for it."""
        out = self.outs[path]
        object_stores.remote(self.workspace, out.get("remote", self.default_remote)).read_intact(out["md5"])

    def table(self, path: str) -> list[dict[str, str]] | None:
        """Rows of data/train.csv or data/test.csv."""
        content = self.output(path)
        return None if content is None else list(csv.DictReader(io.StringIO(content.decode())))

    @cached_property
    def tables(self) -> list[dict[str, str]]:
        """Rows of both; empty before the first retrain or where they are lost."""
        return [row for path in TABLES for row in self.table(path) or []]

    @cached_property
    def objects(self) -> list[StoredObject]:
        """Every object of the commit: files, listings of folders, and what these list."""
        return [stored for path, out in sorted(self.outs.items()) for stored in self._objects_of(path, out)]

    @cached_property
    def unlisted(self) -> list[StoredObject]:
        """Folders whose listing is lost: what belongs to them cannot be known."""
        return [stored for stored in self.objects if stored.md5.endswith(".dir") and self._listing(stored) is None]

    def content(self, stored: StoredObject) -> bytes | None:
        """An object's bytes, known to be the ones its names say; None where no store has them."""
        content = self._intact(stored.md5, stored.remote)
        if content is not None and stored.sha256 and sha256_bytes(content) != stored.sha256:
            return None
        return content

    def _objects_of(self, path: str, out: dict[str, Any]) -> Iterator[StoredObject]:
        whole = StoredObject(path=path, md5=out["md5"], remote=out.get("remote", self.default_remote))
        yield whole
        if whole.md5.endswith(".dir"):
            for entry in self._listing(whole) or []:
                inner = f"{path}/{entry['relpath']}"
                sha256 = self._sha256_of.get(inner) or self._video_sha256(path, entry["relpath"])
                yield StoredObject(path=inner, md5=entry["md5"], remote=whole.remote, sha256=sha256)

    def _video_sha256(self, folder: str, name: str) -> str | None:
        """A video is named by the SHA-256 of its bytes; files inside a folder of frames are not."""
        return name.split(".")[0] if folder == "videos" and "/" not in name else None

    @cached_property
    def _sha256_of(self) -> dict[str, str]:
        """path -> SHA-256 of what the tables and the manifest name by it."""
        shards = {f"data/frames/{row['shard']}": row["shard_sha256"] for row in self.tables}
        masks = {
            f"data/masks/{row['mask_shard']}": row["mask_shard_sha256"] for row in self.tables if row.get("mask_shard")
        }
        truths = {
            f"masks/{video.video_id}.tif": video.mask_sha256
            for video in self.readable_videos.values()
            if video.mask_sha256
        }
        return shards | masks | truths

    def _listing(self, folder: StoredObject) -> list[dict[str, str]] | None:
        content = self._intact(folder.md5, folder.remote)
        return None if content is None else list(json.loads(content))

    def _intact(self, md5: str, remote: str) -> bytes | None:
        """From the cache, else from the remote; None where neither has it whole."""
        for store in (object_stores.cache(self.workspace), object_stores.remote(self.workspace, remote)):
            with contextlib.suppress(StoreUnreachableError):
                content = store.read_intact(md5)
                if content is not None:
                    return content
        return None


class WorkingTree(Commit):
    """What stands in the workspace now, committed or not, read as if it were a commit."""

    def __init__(self, workspace: Workspace) -> None:
        super().__init__(workspace, "")

    @property
    def label(self) -> str:
        return "the working tree"

    def read(self, path: str) -> bytes | None:
        place = self.workspace.root / path
        return place.read_bytes() if place.is_file() else None


def _parsed(text: str) -> Any:
    """As ``yaml.safe_load``, by the parser in C where YAML comes with it: ten times as fast."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)(text)
    try:
        return loader.get_single_data()
    finally:
        loader.dispose()


def with_data(workspace: Workspace, data_version: str) -> Commit | None:
    """The newest commit with these data: after a retrain the one that says what was built from them."""
    for sha in versioning.commits_touching(workspace, ("manifest.csv", "splits.csv", "dvc.lock")):
        commit = Commit(workspace, sha)
        with contextlib.suppress(LclscError):  # one whose tables cannot be read is none
            if commit.data_version == data_version:
                return commit
    return None
