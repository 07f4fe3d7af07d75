"""Names planted wherever a recorder or a person may leave them: none gets out of the identified zone."""

from __future__ import annotations

import base64
import csv
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import av
import clip_files
import leaks
import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image, ImageDraw, ImageFont
from test_extract import Sequential

import planted_copies as planted
from pipelines import extract, identity, intake, manifest, predict
from pipelines import params as parameters
from pipelines.code_digest import refresh
from pipelines.files import sha256_file
from pipelines.intake.near_copy_check import Store
from pipelines.locks import one_writer
from pipelines.video import geometry
from pipelines.workspace import Workspace

FRAMES, SIDE_PX = 8, 160
NAMES = (
    *("Rosalind-Patient-7", "Konrad Manifest", "Title^Hilde", "Comment Werner", "Artist Elfriede"),
    *("Smith^John", "SMITH-1970", "Ottilie-File", "Leopold-Folder", "Broken Gustav"),
)


def _frames(number: int) -> planted.Clip:
    """A phantom with a name burned into the dark corner beside the field of view."""
    source = planted.sources(21, patients=1, frames=FRAMES, size_px=SIDE_PX)[number]
    clip = source.draw().copy()
    picture = Image.new("L", (SIDE_PX, SIDE_PX))
    ImageDraw.Draw(picture).text((0, 0), "R.P.", font=ImageFont.load_default(size=12), fill=255)
    stamp = np.asarray(picture)
    assert not clip[0][stamp > 0].all()
    return np.maximum(clip, stamp)


def _named_video(path: Path, clip: planted.Clip) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        container.metadata.update({"title": NAMES[2], "comment": NAMES[3], "artist": NAMES[4]})
        stream = container.add_stream("libx264", rate=8)
        stream.height, stream.width, stream.pix_fmt = *clip.shape[1:], "yuv420p"
        for frame in clip:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="gray").reformat(format="yuv420p")))
        container.mux(stream.encode(None))


@pytest.fixture(scope="module")
def batch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every format that carries a name, in folders and files that do, and one that breaks."""
    folder = tmp_path_factory.mktemp("march") / "Leopold-Folder"
    clips = folder / "Konrad Manifest"
    _named_video(clips / "Ottilie-File.mp4", _frames(0))
    dicom = _frames(1)
    clip_files.dicom(
        clips / "Ottilie-File.dcm", dicom.tobytes(), frames=FRAMES, size_px=(SIDE_PX, SIDE_PX), FrameTime="125"
    )
    clip_files.mkt(clips / "Ottilie-File.mkt", _frames(2).astype(np.int16) * 20)
    (clips / "Ottilie-File broken.mp4").write_bytes(b"\0\0\0\x20ftypisom Broken Gustav")
    with (folder / "manifest.csv").open("w") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "patient_id", "label"])
        for number, path in enumerate(sorted(clips.iterdir())):
            patient = NAMES[number % 2]
            writer.writerow([path.relative_to(folder).as_posix(), patient, "glioma"])
    return folder


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """One folder of keys for the whole module."""
    folder = tmp_path_factory.mktemp("keys")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LCLSC_KEY_FILE", str(folder / "patients.key"))
        yield folder


@pytest.fixture(scope="module")
def workspace(empty_workspace: Path, batch: Path, keys: Path, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    root = tmp_path_factory.mktemp("privacy") / "workspace"
    subprocess.run(["cp", "-a", str(empty_workspace), str(root)], check=True)
    workspace = Workspace.open(root)
    with one_writer(workspace):
        report = intake.run(workspace, batch)
    assert (len(report.taken), report.errors) == (3, [])
    assert [item["reason"] for item in report.quarantined] == ["truncated"]
    refresh(workspace)
    extract.run(workspace, parameters.load(workspace.params), Sequential())
    return workspace


def _zone(workspace: Workspace) -> list[Path]:
    root = workspace.root
    return [workspace.videos, workspace.quarantine, root / ".dvc" / "cache", root / "remotes" / "identified"]


def test_no_planted_name_leaves_the_identified_zone(workspace: Workspace) -> None:
    assert leaks.found(workspace.root, NAMES, zone=_zone(workspace)) == []


def test_the_names_are_there_to_be_found(workspace: Workspace) -> None:
    """What guards the guard: without the zone, the same search finds what was planted."""
    hits = leaks.found(workspace.root, NAMES, zone=[])
    for name in ("Title^Hilde", "Smith^John", "SMITH-1970", "Broken Gustav", "Ottilie-File"):
        assert any(name in hit for hit in hits), name


@pytest.mark.parametrize("wrapping", ["text", "utf-16-le", "hex", "base64"])
def test_the_search_sees_through_wrappings(workspace: Workspace, tmp_path: Path, wrapping: str) -> None:
    subprocess.run(["git", "init", "--quiet", str(tmp_path)], check=True)
    secret = b"xx Rosalind-Patient-7 yy"
    wrapped = {
        "text": secret,
        "utf-16-le": secret.decode().encode("utf-16-le"),
        "hex": secret.hex().encode(),
        "base64": base64.b64encode(secret),
    }
    (tmp_path / "file").write_bytes(wrapped[wrapping])
    assert leaks.found(tmp_path, NAMES, zone=[]) != []


def test_nothing_outside_the_field_of_view_is_stored(workspace: Workspace) -> None:
    """Names are burned in there. Shards are what predictions, sheets and report pictures are drawn from."""
    shards = sorted(workspace.frames.glob("*.parquet"))
    assert len(shards) == 3
    for shard in shards:
        rows = pq.read_table(shard)
        images = rows["image"].combine_chunks().to_numpy_ndarray()
        places = rows.select(geometry.COLUMNS).to_pylist()
        for image_SS, place in zip(images, places, strict=True):
            outside = ~geometry.inside_mask(place, image_SS.shape[0])
            assert outside.any()
            assert not image_SS[outside].any()


def test_the_zone_is_readable_by_its_owner_alone(workspace: Workspace) -> None:
    for folder in (workspace.videos, workspace.quarantine, Store(workspace).folder):
        assert folder.stat().st_mode & 0o077 == 0, folder


def test_a_new_key_in_the_old_ones_place_moves_nobody(
    workspace: Workspace, keys: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rotation as the README describes it: the old key stays beside the new one, and with it the workspace."""
    subprocess.run(["cp", "-a", str(workspace.root), str(tmp_path / "w")], check=True)
    shutil.copytree(keys, tmp_path / "keys")
    key_file = tmp_path / "keys" / "patients.key"
    monkeypatch.setenv("LCLSC_KEY_FILE", str(key_file))
    key_file.rename(key_file.with_name("before.key"))
    new = identity.create_key()
    moved = Workspace.open(tmp_path / "w")
    before = manifest.read_splits(moved.splits)
    _named_video(tmp_path / "april" / "1.mp4", _frames(3))
    (tmp_path / "april" / "manifest.csv").write_text(f"path,patient_id,label\n1.mp4,{NAMES[0]},glioma\n")
    with one_writer(moved):
        report = intake.run(moved, tmp_path / "april")
    assert (len(report.taken), report.patients) == (1, {})
    assert manifest.read_splits(moved.splits) == before
    assert new.key_id not in moved.manifest.read_text()


def test_a_sheet_names_its_video_by_its_bytes_alone(tmp_path: Path) -> None:
    clip = tmp_path / "Mustermann Erika 1970.mp4"
    clip.write_bytes(b"frames")
    assert predict._title(clip, "3") == f"Video {sha256_file(clip)[:12]}: version 3"
