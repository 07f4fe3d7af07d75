"""Where DVC keeps objects, read directly: the cache and the remotes, a file an object, named by its MD5.

DVC's own questions (``status -c``, ``push``) trust what they noted earlier and miss objects that were
deleted or altered since; these read the bytes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from fsspec.implementations.local import LocalFileSystem

from pipelines import versioning
from pipelines.errors import LclscError
from pipelines.files import md5_bytes
from pipelines.workspace import Workspace

CACHE = "cache"
Answer = TypeVar("Answer")


class StoreUnreachableError(Exception):
    """The store cannot be asked: whether it holds an object is unknown."""


@dataclass(frozen=True)
class ObjectStore:
    """A cache or remote: an fsspec file system and the folder in it; ``unreachable`` says why it cannot be asked."""

    name: str
    filesystem: Any = None
    root: str = ""
    unreachable: str = ""

    def read(self, md5: str) -> bytes | None:
        """The object's bytes, whatever they are; None where it is not there."""
        return self._ask(md5, lambda file: file.read())

    def read_intact(self, md5: str) -> bytes | None:
        """The object's bytes if they are the ones its name says."""
        content = self.read(md5)
        return content if content is not None and md5_bytes(content) == md5.removesuffix(".dir") else None

    def hash(self, md5: str, algorithm: str) -> str | None:
        """The object's hash, streamed; None where it is not there."""
        return self._ask(md5, lambda file: hashlib.file_digest(file, algorithm).hexdigest())

    def delete(self, md5: str) -> bool:
        """True when it was there."""
        self._require()
        try:
            self.filesystem.rm_file(self._path(md5))
        except FileNotFoundError:
            return False
        return True

    def list(self) -> Iterator[tuple[str, int]]:
        """Names and sizes of everything in it, sorted by name."""
        self._require()
        found = self.filesystem.find(f"{self.root}/files/md5", detail=True) if self.filesystem.exists(self.root) else {}
        for path, facts in sorted(found.items()):
            yield "".join(path.split("/")[-2:]), int(facts["size"])

    def _ask(self, md5: str, question: Callable[[Any], Answer]) -> Answer | None:
        self._require()
        try:
            with self.filesystem.open(self._path(md5), "rb") as file:
                return question(file)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StoreUnreachableError(str(error)) from error

    def _path(self, md5: str) -> str:
        return f"{self.root}/{place(md5)}"

    def _require(self) -> None:
        if self.unreachable:
            raise StoreUnreachableError(self.unreachable)


def place(md5: str) -> str:
    """DVC 3's layout, the same in caches and remotes."""
    return f"files/md5/{md5[:2]}/{md5[2:]}"


def cache(workspace: Workspace) -> ObjectStore:
    return _folder(CACHE, workspace.root / ".dvc" / "cache")


def remote(workspace: Workspace, name: str) -> ObjectStore:
    """A remote by its name in .dvc/config: a folder is read as one, an address through DVC's own client."""
    try:
        address = versioning.remote_address(workspace, name)
    except LclscError as error:
        return ObjectStore(name, unreachable=error.cause)
    if address is None:
        return ObjectStore(name, unreachable=f"no remote is called {name}")
    if "://" not in address:
        return _folder(name, (workspace.root / ".dvc" / address).resolve())
    try:
        return ObjectStore(name, *versioning.remote_filesystem(workspace, name))
    except (LclscError, OSError) as error:
        return ObjectStore(name, unreachable=str(error))


def _folder(name: str, root: Path) -> ObjectStore:
    if not root.is_dir():
        return ObjectStore(name, unreachable=f"{name} is not there")
    return ObjectStore(name, LocalFileSystem(), str(root))
