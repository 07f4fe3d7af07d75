"""Do the stored frames re-derive from the videos? Each video is decoded again and its shard compared."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Collection, Iterator
from pathlib import Path

from pydantic import ValidationError

from pipelines import code_digest, extract, progress
from pipelines.evidence.check import Check, Problem, checked, differing
from pipelines.evidence.commit import Commit
from pipelines.files import sha256_file, write_bytes
from pipelines.params import ExtractParams

NAME = "pixels"


def check_pixels(commit: Commit, *, withdrawn: Collection[str]) -> Iterator[Check]:
    """Only the code that made the shards can make them again: under other code the answer is unknown.

    Data that was only taken in has no shards, and so nothing that could differ.
    """
    rows = [row for row in commit.tables if row["patient_id"] not in withdrawn]
    recorded = json.loads(commit.text("code.json") or "{}").get("extract")
    if rows and recorded != code_digest.current()["extract"]:
        found = "this installation's extraction is another; `lclsc reproduce` runs the version's own"
        yield from checked(
            NAME, "", [Problem(object="code.json: extract", expected=_shown(recorded), found=found, unknown=True)]
        )
        return
    try:
        params = ExtractParams.model_validate(commit.params["extract"])
    except (ValidationError, KeyError, TypeError) as error:
        yield from checked(NAME, "", [Problem(object="params.yaml: extract", expected="valid", found=str(error))])
        return
    yield from checked(NAME, f"{len(rows)} videos decoded again", _problems(commit, rows, params))


def _shown(entry: object) -> str:
    return "an entry" if entry is None else "the code that made the shards"


def _problems(commit: Commit, rows: list[dict[str, str]], params: ExtractParams) -> Iterator[Problem]:
    with progress.track("decode", len(rows), "videos") as tracker:
        for row in rows:
            with tempfile.TemporaryDirectory(prefix="lclsc-audit-") as folder:
                yield from _video_problems(commit, row, params, Path(folder))
            tracker.advance()


def _video_problems(commit: Commit, row: dict[str, str], params: ExtractParams, folder: Path) -> Iterator[Problem]:
    video_id = row["video_id"]
    source = fetched(commit, folder, f"videos/{video_id}")
    mask = fetched(commit, folder, f"masks/{video_id}") if row.get("mask_shard") else None
    if source is None:
        yield Problem(object=f"video {video_id}", expected="an intact copy", found="none", unknown=True)
        return
    written = extract.write_shards(
        extract.Work(
            video_id=video_id,
            source=source,
            mask=mask,
            mask_sha256=commit.videos[video_id].mask_sha256,
            shard=folder / row["shard"],
            mask_shard=folder / row["mask_shard"] if row.get("mask_shard") else None,
            params=params,
        )
    )
    if written.facts is None:
        yield Problem(object=f"video {video_id}", expected="decodes", found=written.problem)
        return
    yield from differing(row["shard"], row["shard_sha256"], sha256_file(folder / row["shard"]))
    if row.get("mask_shard"):
        yield from differing(row["mask_shard"], row["mask_shard_sha256"], sha256_file(folder / row["mask_shard"]))


def fetched(commit: Commit, folder: Path, stem: str) -> Path | None:
    """The file or folder of frames called ``stem``, copied from the stores; None where there is no intact one."""
    found = None
    for stored in commit.objects:
        if stored.path.startswith((f"{stem}.", f"{stem}/")):
            content = commit.content(stored)
            if content is None:
                return None
            write_bytes(folder / stored.path, content)
            found = folder / "/".join(stored.path.split("/")[:2])
    return found
