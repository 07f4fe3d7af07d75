"""What ``status`` tells, from small files alone."""

from __future__ import annotations

import errno
import json
from pathlib import Path

import pytest

from pipelines import errors, ledger, locks, status
from pipelines.files import read_json
from pipelines.workspace import Workspace


@pytest.fixture
def listed(judged: Workspace) -> Workspace:
    """With the tables that ``status`` reads."""
    (judged.root / "manifest.csv").write_text("video_id,patient_id,site,domain,label,mask_sha256\n")
    (judged.root / "splits.csv").write_text("patient_id,split\n")
    return judged


def test_versions_are_listed_with_alias_and_verdict(listed: Workspace) -> None:
    versions = status.run(listed)["versions"]
    assert [(one["version"], one["aliases"], one["verdict"], one["withdrawn"]) for one in versions] == [
        ("1", ["champion"], "passed", False),
        ("2", ["challenger"], "passed", False),
        ("3", [], None, False),
    ]
    ledger.append(listed, actor="test", event="withdrawn", subject="p", data={"versions": ["3"], "purged": []})
    assert [one["withdrawn"] for one in status.run(listed)["versions"]] == [False, False, True]


def test_it_answers_on_a_medium_that_cannot_be_written_to(listed: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> Path:
        raise OSError(errno.EROFS, "Read-only file system", str(path))

    monkeypatch.setattr(locks, "private_folder", refuse)
    assert status.run(listed)["working"] is None


@pytest.mark.parametrize(
    ("number", "code"), [(errno.EROFS, "read_only"), (errno.EACCES, "no_access"), (errno.ENOSPC, "disk_full")]
)
def test_what_a_disk_refuses_has_a_remedy(number: int, code: str) -> None:
    found = errors.unexpected(OSError(number, "said the disk", "place"))
    assert (found.code, found.cause) == (code, "said the disk: place.")


@pytest.mark.parametrize("content", [b'{"a": ', b"\xff{}"])
def test_a_damaged_file_is_named(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "record.json").write_bytes(content)
    with pytest.raises(json.JSONDecodeError, match=r"record\.json"):
        read_json(tmp_path / "record.json")
