"""source.tar: the same bytes for the same code, and code that runs after it is unpacked."""

from __future__ import annotations

import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from pipelines.errors import StageError
from pipelines.package import source_archive


def test_the_same_code_gives_the_same_bytes(tmp_path: Path) -> None:
    first = source_archive.write(tmp_path / "one.tar")
    for path in source_archive.files().values():
        path.stat()  # reading must not matter
    assert source_archive.write(tmp_path / "two.tar") == first


def test_nothing_of_this_machine_is_in_it(tmp_path: Path) -> None:
    source_archive.write(tmp_path / "source.tar")
    with tarfile.open(tmp_path / "source.tar") as archive:
        members = archive.getmembers()
    assert {(member.uid, member.gid, member.uname, member.mtime, member.mode) for member in members} == {
        (0, 0, "", 0, 0o644)
    }
    assert [member.name for member in members] == sorted(member.name for member in members)
    assert not [member.name for member in members if "__pycache__" in member.name or member.name.startswith("/")]


def test_the_unpacked_code_is_what_runs(tmp_path: Path) -> None:
    sha256 = source_archive.write(tmp_path / "source.tar")
    source_archive.unpack(tmp_path / "source.tar", tmp_path / "code", sha256=sha256)
    program = (
        "import pipelines, pipelines.code_digest as c; from pipelines.package import source_archive as s;"
        "print(pipelines.__file__); print(c._stage_entry('extract', with_timm=False)['sources']);"
        "from pipelines.files import sha256_bytes; print(sha256_bytes(s.build()))"
    )
    answers = [
        subprocess.run(
            [sys.executable, "-c", program],
            cwd=folder,
            env={"PYTHONPATH": str(folder), "PATH": "/usr/bin"},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.split()
        for folder in (tmp_path / "code", Path(source_archive.__file__).parents[2])
    ]
    assert answers[0][0] == str(tmp_path / "code" / "pipelines" / "__init__.py")
    assert answers[0][1:] == answers[1][1:]
    assert answers[0][2] == sha256


def test_other_bytes_are_refused(tmp_path: Path) -> None:
    sha256 = source_archive.write(tmp_path / "source.tar")
    damaged = bytearray((tmp_path / "source.tar").read_bytes())
    damaged[600] ^= 1
    (tmp_path / "source.tar").write_bytes(damaged)
    with pytest.raises(StageError, match="is not the archive"):
        source_archive.unpack(tmp_path / "source.tar", tmp_path / "code", sha256=sha256)
    assert not (tmp_path / "code").exists()
