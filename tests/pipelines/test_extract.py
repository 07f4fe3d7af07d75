"""Extraction: same videos, same bytes; only what is new is decoded; nothing half-made stays."""

from __future__ import annotations

import csv
import os
import shutil
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import tifffile
from test_video import write_clip

from pipelines import code_digest, extract, frames, manifest, schemas, shard_writer
from pipelines import params as parameters
from pipelines.errors import StageError, VideoError
from pipelines.files import read_json, sha256_file, write_json
from pipelines.manifest import Video
from pipelines.params import Params
from pipelines.video.isolation import run_isolated
from pipelines.workspace import Workspace, template_file

SIDE_PX, FRAMES = 64, 6
LABELS = ("glioma", "healthy")


class Sequential:
    """Ray's place in these tests: one item after the other; remembers what it was asked to decode."""

    def __init__(self) -> None:
        self.decoded: list[str] = []

    def __call__(self, function: Callable[[Any], Any], items: Sequence[Any], **_: Any) -> list[Any]:
        self.decoded += [item.video_id for item in items]
        return [function(item) for item in items]


def add_video(workspace: Workspace, *, seed: int, label: str, patient: str, split: str, mask: bool = False) -> str:
    """Draw a clip, name it by its bytes, and write it into the tables as intake does."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:SIDE_PX, :SIDE_PX] - SIDE_PX / 2 + 0.5
    lumas = rng.integers(40, 200, (FRAMES, SIDE_PX, SIDE_PX)) * (np.hypot(y, x) < 30) + 16
    clip = write_clip(workspace.root / f"{seed}.mkv", lumas.astype(np.uint8))
    video_id = sha256_file(clip)
    clip.rename(workspace.videos / f"{video_id}.mkv")
    mask_sha256 = ""
    if mask:
        page = np.hypot(y, x) < 10
        tifffile.imwrite(workspace.masks / f"{video_id}.tif", np.stack([page] * FRAMES), photometric="minisblack")
        mask_sha256 = sha256_file(workspace.masks / f"{video_id}.tif")
    row = Video(
        video_id=video_id,
        patient_id=patient,
        site="s",
        domain="ex-vivo",
        label=label,
        mask_sha256=mask_sha256,
    )
    manifest.write_videos(workspace.manifest, [*manifest.read_videos(workspace.manifest), row])
    manifest.write_splits(workspace.splits, manifest.read_splits(workspace.splits) | {patient: split})
    return video_id


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    """Two classes of two patients each: one to train on, one to test on."""
    made = Workspace(tmp_path / "workspace")
    for folder in (made.videos, made.masks, made.state):
        folder.mkdir(parents=True)
    manifest.write_videos(made.manifest, [])
    manifest.write_splits(made.splits, {})
    write_json(made.code, code_digest.current())
    for number, label in enumerate(LABELS):
        add_video(made, seed=2 * number, label=label, patient=f"{label}-0", split="train")
        add_video(made, seed=2 * number + 1, label=label, patient=f"{label}-1", split="test", mask=True)
    return made


@pytest.fixture
def params() -> Params:
    """As shipped, but small, and with classes of two patients."""
    shipped = parameters.load(template_file("params.yaml"))
    small = shipped.extract.model_copy(
        update={"side_px": 32, "min_sharpness": 0.0, "max_smear": 1000.0, "min_change": 0.0}
    )
    split = shipped.split.model_copy(update={"min_patients": 2})
    return shipped.model_copy(update={"extract": small, "split": split})


def outputs(workspace: Workspace) -> dict[str, bytes]:
    data = workspace.root / "data"
    return {str(path.relative_to(data)): path.read_bytes() for path in sorted(data.rglob("*")) if path.is_file()}


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_same_videos_give_the_same_bytes_in_another_folder(workspace: Workspace, params: Params) -> None:
    first_report = extract.run(workspace, params, map_items=Sequential())
    elsewhere = Workspace(workspace.root.with_name("elsewhere"))
    shutil.copytree(workspace.root, elsewhere.root, ignore=shutil.ignore_patterns("data", ".state"))
    elsewhere.state.mkdir()
    assert extract.run(elsewhere, params, map_items=Sequential()) == first_report
    assert outputs(elsewhere) == outputs(workspace)


def test_what_is_there_is_never_decoded_again(workspace: Workspace, params: Params) -> None:
    report, before = extract.run(workspace, params, map_items=Sequential()), outputs(workspace)
    again = Sequential()
    assert extract.run(workspace, params, map_items=again) == report
    assert again.decoded == []
    assert outputs(workspace) == before
    assert read_json(workspace.state / "extract.run.json") == {"new": 0, "reused": 4, "removed": 0}


def test_a_new_video_is_decoded_alone(workspace: Workspace, params: Params) -> None:
    extract.run(workspace, params, map_items=Sequential())
    new = add_video(workspace, seed=9, label="glioma", patient="glioma-2", split="train")
    mapper = Sequential()
    extract.run(workspace, params, map_items=mapper)
    assert mapper.decoded == [new]
    assert read_json(workspace.state / "extract.run.json") == {"new": 1, "reused": 4, "removed": 0}


def test_a_withdrawn_video_and_leftovers_of_a_killed_run_are_pruned(workspace: Workspace, params: Params) -> None:
    extract.run(workspace, params, map_items=Sequential())
    gone, *rest = manifest.read_videos(workspace.manifest)
    manifest.write_videos(workspace.manifest, rest)
    (workspace.frames / ".tmp-0123-half.parquet").write_bytes(b"half")
    extract.run(workspace, params, map_items=Sequential())
    assert not [name for name in outputs(workspace) if gone.video_id in name or ".tmp-" in name]
    assert read_json(workspace.state / "extract.run.json")["reused"] == 3


def test_a_corrupted_shard_is_rebuilt_to_the_same_bytes(workspace: Workspace, params: Params) -> None:
    extract.run(workspace, params, map_items=Sequential())
    before = outputs(workspace)
    shard = sorted(workspace.frames.iterdir())[0]
    shard.write_bytes(shard.read_bytes()[:-100])
    mapper = Sequential()
    extract.run(workspace, params, map_items=mapper)
    assert mapper.decoded == [shard.name[:64]]
    assert outputs(workspace) == before


def test_another_parameter_is_another_recipe(workspace: Workspace, params: Params) -> None:
    recipe = extract.run(workspace, params, map_items=Sequential())["recipe"]
    other = params.model_copy(update={"extract": params.extract.model_copy(update={"min_mean": 19.0})})
    assert extract.run(workspace, other, map_items=Sequential())["recipe"] != recipe
    assert not [name for name in outputs(workspace) if recipe in name]


def write_and_die(video: dict[str, str], params: dict[str, Any], at: int) -> int:
    """Ends itself as ``kill -9`` would, at the ``at``-th thing that it does to a file."""
    done = 0

    def count(event: str, _: Any) -> None:
        nonlocal done
        if event == "open" or event.startswith(("os.", "fcntl.")):
            done += 1
            if done == at:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(count)
    shard_writer.write(video, params)
    return done


def test_a_kill_at_any_point_leaves_no_half_shard_and_the_next_run_the_same_bytes(
    workspace: Workspace, params: Params
) -> None:
    extract.run(workspace, params, map_items=Sequential())
    whole = outputs(workspace)
    shard = next(path for path in sorted(workspace.frames.iterdir()) if path.name[:64] in mask_ids(workspace))
    mask_shard = next(workspace.mask_frames.glob(f"{shard.name[:64]}*"))
    video = {
        "video_id": shard.name[:64],
        "source": str(workspace.videos / f"{shard.name[:64]}.mkv"),
        "shard": str(shard),
        "mask": str(workspace.masks / f"{shard.name[:64]}.tif"),
        "mask_sha256": mask_ids(workspace)[shard.name[:64]],
        "mask_shard": str(mask_shard),
    }
    points = run_isolated(write_and_die, video, params.extract.model_dump(), 0)
    assert points > 10
    for point in range(1, points + 1):
        shard.unlink(missing_ok=True)
        mask_shard.unlink(missing_ok=True)
        with pytest.raises(VideoError, match="SIGKILL"):
            run_isolated(write_and_die, video, params.extract.model_dump(), point)
        left = {name: data for name, data in outputs(workspace).items() if ".tmp-" not in name}
        assert left.items() <= whole.items(), point
    extract.run(workspace, params, map_items=Sequential())
    assert outputs(workspace) == whole


def mask_ids(workspace: Workspace) -> dict[str, str]:
    return {row.video_id: row.mask_sha256 for row in manifest.read_videos(workspace.manifest) if row.mask_sha256}


def test_a_video_that_does_not_decode_is_named_and_the_others_keep_their_shards(
    workspace: Workspace, params: Params
) -> None:
    bad = manifest.read_videos(workspace.manifest)[1].video_id
    (workspace.videos / f"{bad}.mkv").write_bytes(b"no video")
    with pytest.raises(StageError, match=bad[:12]) as caught:
        extract.run(workspace, params, map_items=Sequential())
    assert caught.value.code == "extract_failed"
    kept = {path.name[:64] for path in workspace.frames.iterdir()}
    assert kept == {row.video_id for row in manifest.read_videos(workspace.manifest)} - {bad}


def test_a_video_that_is_not_there_is_named_with_the_remedy(workspace: Workspace, params: Params) -> None:
    gone = manifest.read_videos(workspace.manifest)[0].video_id
    (workspace.videos / f"{gone}.mkv").unlink()
    with pytest.raises(StageError, match="dvc pull") as caught:
        extract.run(workspace, params, map_items=Sequential())
    assert gone[:12] in caught.value.cause


def test_the_tables_name_each_shard_by_its_bytes_and_training_sees_no_test_patient(
    workspace: Workspace, params: Params
) -> None:
    extract.run(workspace, params, map_items=Sequential())
    train, test = table(workspace.train_table), table(workspace.test_table)
    assert {row["split"] for row in train} == {"train"}
    assert {row["split"] for row in test} == {"test"}
    for row in train + test:
        assert sha256_file(workspace.frames / row["shard"]) == row["shard_sha256"]
        assert int(row["frames"]) == FRAMES
    for row in test:
        assert sha256_file(workspace.mask_frames / row["mask_shard"]) == row["mask_shard_sha256"]
    assert [row["video_id"] for row in train] == sorted(row["video_id"] for row in train)


def test_stored_frames_follow_the_schema_and_are_zero_outside(workspace: Workspace, params: Params) -> None:
    extract.run(workspace, params, map_items=Sequential())
    row = table(workspace.test_table)[0]
    shard = workspace.frames / row["shard"]
    assert pq.read_schema(shard).equals(schemas.frames(32))
    stored = frames.read_shard(shard, row["shard_sha256"])
    assert stored.images_NSS.shape == (FRAMES, 32, 32)
    assert not stored.images_NSS[~stored.fov_NSS].any()
    masks_NSS = frames.read_masks(workspace.mask_frames / row["mask_shard"], row["mask_shard_sha256"])
    assert masks_NSS.shape == stored.images_NSS.shape
    assert masks_NSS.any()
    assert not masks_NSS[~stored.fov_NSS].any()


def test_a_class_with_too_few_patients_waits_outside_both_tables(workspace: Workspace, params: Params) -> None:
    add_video(workspace, seed=20, label="rare", patient="rare-0", split="train")
    report = extract.run(workspace, params, map_items=Sequential())
    assert report["waiting"] == ["rare"]
    assert report["videos"] == 5
    assert {row["label"] for row in table(workspace.train_table) + table(workspace.test_table)} == set(LABELS)


def test_a_class_that_nobody_trains_on_is_not_tested_either(workspace: Workspace, params: Params) -> None:
    for number in range(2):
        add_video(workspace, seed=30 + number, label="unseen", patient=f"unseen-{number}", split="test")
    assert extract.run(workspace, params, map_items=Sequential())["waiting"] == ["unseen"]
    assert "unseen" not in {row["label"] for row in table(workspace.test_table)}


def test_an_unreadable_shard_is_rebuilt_when_the_index_is_lost(workspace: Workspace, params: Params) -> None:
    extract.run(workspace, params, map_items=Sequential())
    before = outputs(workspace)
    (workspace.state / "shards.json").unlink()
    shard = sorted(workspace.frames.iterdir())[0]
    content = bytearray(shard.read_bytes())
    content[len(content) // 3] ^= 0xFF
    shard.write_bytes(content)
    extract.run(workspace, params, map_items=Sequential())
    assert outputs(workspace) == before
