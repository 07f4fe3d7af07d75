from __future__ import annotations

import errno
import hashlib
import os
from pathlib import Path

import pytest

from pipelines import files, processes


def test_a_write_that_fails_leaves_the_old_file_and_no_leftover(tmp_path: Path) -> None:
    target = tmp_path / "table.csv"
    files.write_text(target, "old")
    with pytest.raises(FileNotFoundError), files.atomic_path(target) as temporary:
        temporary.unlink(missing_ok=True)  # what was to be written never came to be
    assert target.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["table.csv"]


def test_only_what_dead_writers_left_is_swept(tmp_path: Path) -> None:
    machine, pid, started = files._writer(os.getpid()).split(".")
    dead = [f".tmp-{machine}.{pid}.{started}0-1-a.json", f"deep/.tmp-{machine}.{2**22 + 1}.5-2/package"]
    before_a_power_cut = f".tmp-00000000.{pid}.{started}-3"
    living = [
        f"{files.temporary_name()}-b.json",
        f"deep/{files.temporary_name()}/{Path(dead[0]).name}",
        f".tmp-00000000.{pid}.{started}-4",  # of another machine
        ".tmp-of-somebody",
        "kept.json",
    ]
    for name in (*dead, before_a_power_cut, *living):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    os.utime(tmp_path / before_a_power_cut, (processes.booted_at() - 1,) * 2)
    files.remove_dead_temporaries(tmp_path)
    left = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert left == set(living)


def test_a_secret_is_whole_or_absent_and_the_first_one_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    target = tmp_path / "keys" / "patients.key"
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space"):
            files.write_once(target, b"cut off")
    assert list(target.parent.iterdir()) == []
    files.write_once(target, b"first")
    files.write_once(target, b"second")
    assert target.read_bytes() == b"first"
    assert [(path.name, path.stat().st_mode & 0o777) for path in target.parent.iterdir()] == [("patients.key", 0o600)]


def test_of_two_processes_that_make_the_same_folder_the_first_ones_stays(tmp_path: Path) -> None:
    for name in ("first", "second"):
        (tmp_path / name / "deep").mkdir(parents=True)
        (tmp_path / name / "deep" / "file").write_text(name)
        files.move_unless_there(tmp_path / name, tmp_path / "made")
    assert (tmp_path / "made" / "deep" / "file").read_text() == "first"
    with pytest.raises(FileNotFoundError):
        files.move_unless_there(tmp_path / "first", tmp_path / "made")


def test_canonical_json_does_not_depend_on_the_order_of_keys() -> None:
    assert files.canonical_json({"b": 1, "a": [1.0, "é"]}) == files.canonical_json({"a": [1.0, "é"], "b": 1})
    assert files.canonical_json({"b": 1, "a": [1.5, "é"]}) == '{"a":[1.5,"é"],"b":1}'.encode()


def test_a_file_hash_is_the_standard_one(tmp_path: Path) -> None:
    path = tmp_path / "bytes"
    path.write_bytes(b"pCLE" * 1000)
    assert files.sha256_file(path) == hashlib.sha256(b"pCLE" * 1000).hexdigest()


def test_json_without_a_number_is_refused_rather_than_written_as_nan(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        files.write_json(tmp_path / "report.json", {"macro_f1": float("nan")})
    assert not list(tmp_path.iterdir())
