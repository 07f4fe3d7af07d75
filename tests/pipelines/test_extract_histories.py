"""Extraction after any history of changes is extraction from scratch: same shards, same tables, same bytes.

A history adds, removes, relabels, renames and adds again videos, changes a parameter, loses the index, and
extracts in between. ``make histories`` runs 1 000 of them; the tests run a sample. Ray's place is taken by a loop.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_extract import LABELS, outputs
from test_video import write_clip

from pipelines import code_digest, extract, manifest, shard_writer
from pipelines import params as parameters
from pipelines.files import sha256_file, write_json
from pipelines.manifest import Video
from pipelines.params import Params
from pipelines.workspace import Workspace, template_file

HISTORIES = int(os.environ.get("LCLSC_HISTORIES", "20"))
CLIPS, FRAMES, SIDE_PX, STEPS = 6, 3, 32, 8


def in_process(function: Callable[[Any], Any], items: Sequence[extract.Work], **_: Any) -> list[extract.Written]:
    """What a worker does, without Ray and without a child: a thousand histories have to fit into minutes."""
    assert function is extract.write_shards
    return [
        extract.Written(
            video_id=item.video_id, facts=shard_writer.write(extract.files_of(item), item.params.model_dump())
        )
        for item in items
    ]


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """video_id -> file."""
    folder = tmp_path_factory.mktemp("clips")
    rng = np.random.default_rng(0)
    drawn = [rng.integers(40, 200, (FRAMES, SIDE_PX, SIDE_PX)).astype(np.uint8) for _ in range(CLIPS)]
    files = [write_clip(folder / f"{number}.mkv", lumas) for number, lumas in enumerate(drawn)]
    return {sha256_file(file): file for file in files}


@pytest.fixture(scope="module")
def params() -> Params:
    shipped = parameters.load(template_file("params.yaml"))
    return shipped.model_copy(
        update={
            "extract": shipped.extract.model_copy(update={"side_px": SIDE_PX}),
            "split": shipped.split.model_copy(update={"min_patients": 1}),
        }
    )


class History:
    """A workspace, and random things that happen to it."""

    def __init__(self, root: Path, clips: dict[str, Path], params: Params, seed: int) -> None:
        self.workspace, self.clips, self.params = Workspace(root), clips, params
        self.rng = np.random.default_rng(seed)
        for folder in (self.workspace.videos, self.workspace.state):
            folder.mkdir(parents=True)
        manifest.write_videos(self.workspace.manifest, [])
        manifest.write_splits(self.workspace.splits, {f"p{number}": "train" for number in range(CLIPS)})

    def happen(self) -> None:
        events = (self.add, self.add, self.remove, self.relabel, self.rename, self.change, self.forget, self.extract)
        events[self.rng.integers(len(events))]()

    def add(self) -> None:
        """Anew, or again."""
        absent = sorted(self.clips.keys() - {row.video_id for row in self.rows})
        if absent:
            video_id = absent[self.rng.integers(len(absent))]
            patient = f"p{list(self.clips).index(video_id)}"
            label = LABELS[self.rng.integers(len(LABELS))]
            row = Video(video_id=video_id, patient_id=patient, site="s", domain="ex-vivo", label=label, mask_sha256="")
            shutil.copyfile(self.clips[video_id], self.workspace.videos / f"{video_id}.mkv")
            manifest.write_videos(self.workspace.manifest, [*self.rows, row])

    def remove(self) -> None:
        if self.rows:
            gone = self.rows[self.rng.integers(len(self.rows))]
            manifest.write_videos(self.workspace.manifest, [row for row in self.rows if row != gone])
            self.file_of(gone).unlink()

    def relabel(self) -> None:
        if self.rows:
            rows = self.rows
            at = int(self.rng.integers(len(rows)))
            rows[at] = dataclasses.replace(rows[at], label=LABELS[self.rng.integers(len(LABELS))])
            manifest.write_videos(self.workspace.manifest, rows)

    def rename(self) -> None:
        """Another extension: the content stays what it was."""
        if self.rows:
            file = self.file_of(self.rows[self.rng.integers(len(self.rows))])
            file.rename(file.with_suffix(".avi" if file.suffix == ".mkv" else ".mkv"))

    def change(self) -> None:
        changed = {"min_mean": float(self.rng.choice([18.0, 19.0])), "min_change": float(self.rng.choice([0.0, 0.5]))}
        self.params = self.params.model_copy(update={"extract": self.params.extract.model_copy(update=changed)})

    def forget(self) -> None:
        (self.workspace.state / "shards.json").unlink(missing_ok=True)

    def extract(self) -> dict[str, Any]:
        return extract.run(self.workspace, self.params, map_items=in_process)

    @property
    def rows(self) -> list[Video]:
        return manifest.read_videos(self.workspace.manifest)

    def file_of(self, row: Video) -> Path:
        return next(self.workspace.videos.glob(f"{row.video_id}.*"))


def test_any_history_ends_in_what_extraction_makes_from_scratch(
    tmp_path: Path, clips: dict[str, Path], params: Params
) -> None:
    code = code_digest.current()
    for seed in range(HISTORIES):
        history = History(tmp_path / "history", clips, params, seed)
        write_json(history.workspace.code, code)
        for _ in range(STEPS):
            history.happen()
        report = history.extract()
        scratch = Workspace(tmp_path / "scratch")
        shutil.copytree(history.workspace.root, scratch.root, ignore=shutil.ignore_patterns("data", ".state"))
        scratch.state.mkdir()
        assert extract.run(scratch, history.params, map_items=in_process) == report, seed
        assert outputs(scratch) == outputs(history.workspace), seed
        shutil.rmtree(history.workspace.root)
        shutil.rmtree(scratch.root)
