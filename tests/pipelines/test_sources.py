"""Batches at other addresses: in memory, in an archive, and on a real S3 server on this machine."""

from __future__ import annotations

import contextlib
import errno
import os
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import fsspec
import pytest
from clip_files import frame_folder, pictures

from pipelines import intake
from pipelines.errors import OutsideSystemError, VideoError, WrongUseError
from pipelines.files import sha256_file
from pipelines.intake import incoming, sources
from pipelines.intake.sources import LocalFolder
from pipelines.locks import one_writer
from pipelines.workspace import Workspace

MANIFEST = "path,patient_id,label\na/clip.mp4,P,glioma\n"


@pytest.fixture
def clip(make_clip: Callable[..., Path], tmp_path: Path) -> Path:
    return make_clip(tmp_path / "march" / "a" / "clip.mp4")


def test_memory_and_archives_give_the_bytes_that_a_folder_gives(clip: Path, tmp_path: Path) -> None:
    folder = clip.parent.parent
    (folder / "manifest.csv").write_text(MANIFEST)
    with zipfile.ZipFile(tmp_path / "march.zip", "w") as archive:
        for name in ("manifest.csv", "a/clip.mp4"):
            archive.write(folder / name, f"march/{name}")
    fsspec.filesystem("memory").put(str(folder), "/march", recursive=True)
    addresses = (str(folder), f"file://{folder}", "memory://march", f"zip://march::{tmp_path / 'march.zip'}")
    found = {sources.copy(sources.of(place), "a/clip.mp4", tmp_path / "copy") for place in addresses}
    assert found == {sha256_file(clip)}
    assert {incoming.read(sources.of(place), []).rows[0].path for place in addresses} == {"a/clip.mp4"}
    assert {sources.of(place).name for place in addresses} == {"march"}
    for place in addresses:
        with pytest.raises(FileNotFoundError):
            sources.copy(sources.of(place), "a/none.mp4", tmp_path / "copy")


def test_a_file_on_a_bad_sector_is_set_aside_alone(tmp_path: Path) -> None:
    own = LocalFolder(Path("/proc/self"))  # where reading `mem` from its beginning is an input/output error
    with pytest.raises(VideoError) as caught:
        sources.copy(own, "mem", tmp_path / "copy")
    assert caught.value.code == "read_error"


@pytest.mark.parametrize("number", [errno.ESTALE, errno.EIO])
def test_a_share_that_is_away_is_asked_again_later(number: int, tmp_path: Path) -> None:
    class Away:
        def read(self, _: int) -> bytes:
            raise OSError(number, os.strerror(number))

    source = LocalFolder(tmp_path / "unmounted")
    with pytest.raises(OutsideSystemError) as caught:
        sources._Reader(Away(), source._asked).read()
    assert (caught.value.code, caught.value.transient) == ("source_unreachable", True)


def test_the_workspaces_own_full_disk_is_no_fault_of_the_source(clip: Path) -> None:
    with pytest.raises(OSError, match="No space left"):
        sources._copy_file(LocalFolder(clip.parent), clip.name, Path("/dev/full"), sources._Room(clip.parent, 1 << 30))


def test_a_file_in_a_folder_that_may_be_listed_and_not_entered_is_set_aside() -> None:
    with tempfile.TemporaryDirectory() as place:  # pytest's own folders are closed to everybody but their owner
        Path(place).chmod(0o755)
        closed = Path(place) / "closed"
        closed.mkdir()
        (closed / "clip.mp4").touch()
        closed.chmod(0o744)
        with _as_somebody_else(closed), pytest.raises(VideoError) as caught:
            LocalFolder(Path(place)).state("closed/clip.mp4")
    assert caught.value.code == "no_access"


@contextlib.contextmanager
def _as_somebody_else(folder: Path) -> Iterator[None]:
    """Nothing is closed to root."""
    if os.geteuid() != 0:
        folder.chmod(0o400)
        yield
        folder.chmod(0o700)
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_a_batch_in_a_bucket_goes_in_like_one_in_a_folder(workspace: Workspace, clip: Path, bucket: str) -> None:
    import boto3

    store = boto3.client("s3")
    store.put_object(Bucket=bucket, Key="march/manifest.csv", Body=MANIFEST + "a/none.mp4,P,glioma\na,P,glioma\n")
    store.upload_file(str(clip), bucket, "march/a/clip.mp4")
    with one_writer(workspace):
        report = intake.run(workspace, f"s3://{bucket}/march")
    assert report.taken == [sha256_file(clip)]
    assert [(error.row, error.code) for error in report.errors] == [(3, "path_missing")]
    assert [(item["row"], item["reason"]) for item in report.quarantined] == [(4, "no_rate")]  # a folder of no frames
    assert [path.name for path in workspace.videos.iterdir()] == [f"{report.taken[0]}.mp4"]


def test_a_source_that_is_away_is_a_transient_failure(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with pytest.raises(OutsideSystemError) as caught:
        incoming.read(sources.of("s3://another/march"), [])
    assert caught.value.transient


@pytest.mark.parametrize(
    ("address", "code"),
    [
        ("gs://bucket/march", "no_reader_for_address"),
        ("nothing://bucket/march", "bad_address"),
        ("sftp://user:secret@host/march", "credentials_in_address"),
        ("https://t0ken@host/march", "credentials_in_address"),
        ("https://host/march?sig=s3cret", "credentials_in_address"),
        ("simplecache::s3://bucket/march", "caching_address"),
    ],
)
def test_addresses_that_cannot_or_may_not_be_read_name_the_remedy(address: str, code: str) -> None:
    with pytest.raises(WrongUseError) as caught:
        sources.of(address)
    assert caught.value.code == code
    assert "secret" not in str(caught.value)


def test_a_file_that_changes_while_it_is_read_is_still_being_written(clip: Path, tmp_path: Path) -> None:
    with contextlib.ExitStack() as reading:
        file = reading.enter_context(LocalFolder(clip.parent).open("clip.mp4"))
        file.read(10)
        with clip.open("ab") as other:
            other.write(b"more")
        with pytest.raises(VideoError) as caught:
            reading.close()
    assert caught.value.code == "still_written"


def test_a_folder_of_frames_has_one_id_whatever_its_files_are_called(tmp_path: Path) -> None:
    import numpy as np
    from PIL import Image

    ids = set()
    for name in ("a{}.png", "Erika {}.png"):
        folder = tmp_path / name[:1]
        folder.mkdir()
        for index in (2, 10):
            Image.fromarray(np.full((8, 8), index, np.uint8)).save(folder / name.format(index))
        (folder / "rate.txt").write_text("8")
        ids.add(sources.copy(LocalFolder(tmp_path), name[:1], tmp_path / "copy"))
        assert sorted(path.name for path in (tmp_path / "copy").iterdir()) == ["000000", "000001", "rate.txt"]
    assert len(ids) == 1


def test_a_folder_that_gains_a_frame_while_it_is_copied_is_still_being_written(tmp_path: Path) -> None:
    frame_folder(tmp_path / "clip", pictures(3), ".png")

    class Filling(LocalFolder):
        @contextlib.contextmanager
        def open(self, path: str) -> Iterator[BinaryIO]:
            with super().open(path) as file:
                yield file
            (self.folder / "clip" / "frame 4.png").touch()

    with pytest.raises(VideoError) as caught:
        sources.copy(Filling(tmp_path), "clip", tmp_path / "copy")
    assert caught.value.code == "still_written"


def test_one_key_without_the_right_to_read_it_is_set_aside_alone(
    workspace: Workspace, clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = fsspec.filesystem("memory")
    files.put(str(clip), "/april/a/clip.mp4")
    files.pipe("/april/a/closed.mp4", b"closed")
    files.pipe("/april/manifest.csv", (MANIFEST + "a/closed.mp4,P,glioma\n").encode())
    info = type(files).info

    def guarded(self: Any, path: str, **options: Any) -> Any:
        if path.endswith("closed.mp4"):
            raise PermissionError("Forbidden")
        return info(self, path, **options)

    monkeypatch.setattr(type(files), "info", guarded)
    with one_writer(workspace):
        report = intake.run(workspace, "memory://april")
    assert report.taken == [sha256_file(clip)]
    assert [(item["row"], item["reason"]) for item in report.quarantined] == [(3, "no_access")]


def test_a_video_over_the_cap_is_not_copied_on(clip: Path, tmp_path: Path) -> None:
    with pytest.raises(VideoError) as caught:
        sources.copy(LocalFolder(clip.parent), "clip.mp4", tmp_path / "copy", max_bytes=100)
    assert caught.value.code == "over_bytes"
