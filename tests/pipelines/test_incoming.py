from __future__ import annotations

from pathlib import Path

import pytest

from pipelines import incoming
from pipelines.errors import WrongUseError

HEADER = "path,patient_id,label,domain,split,mask,sha256\n"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    (tmp_path / "a.mp4").write_bytes(b"a")
    (tmp_path / "b.mp4").write_bytes(b"b")
    return tmp_path


def _read(source: Path, *rows: str, allowed: list[str] | None = None) -> tuple[list[int], list[tuple[int, str, str]]]:
    (source / "manifest.csv").write_text(HEADER + "\n".join(rows) + "\n")
    good, errors = incoming.read(source, allowed or [])
    return [row.row for row in good], [(error.row, error.column, error.message) for error in errors]


def test_good_rows_go_on_beside_bad_ones(source: Path) -> None:
    good, errors = _read(source, "a.mp4,P1,glioma,,,,", "missing.mp4,P2,glioma,,,,", "b.mp4,,glioma,,,,")
    assert good == [2]
    assert errors == [(3, "path", "does not exist"), (4, "patient_id", "is empty")]


def test_an_unknown_label_names_the_nearest_allowed_one(source: Path) -> None:
    _, errors = _read(source, "a.mp4,P1,gliom,,,,", allowed=["glioma", "healthy"])
    assert "did you mean 'glioma'?" in errors[0][2]


@pytest.mark.parametrize("path", ["../a.mp4", "/etc/passwd", "sub/../../a.mp4"])
def test_a_path_that_escapes_is_refused(source: Path, path: str) -> None:
    good, errors = _read(source, f"{path},P1,glioma,,,,")
    assert not good
    assert errors[0][1] == "path"


def test_a_link_is_refused(source: Path) -> None:
    (source / "link.mp4").symlink_to(source / "a.mp4")
    assert _read(source, "link.mp4,P1,glioma,,,,")[1] == [(2, "path", "must be a regular file, not a link or a folder")]


def test_cells_with_a_fixed_choice_name_the_choices(source: Path) -> None:
    _, errors = _read(source, "a.mp4,P1,glioma,in vivo,,,", "b.mp4,P1,glioma,,dev,,")
    assert errors[0][1:] == ("domain", "is not one of ex-vivo, in-vivo")
    assert errors[1][1:] == ("split", "is not one of train, validation, test")


def test_the_same_file_twice_is_an_error_in_the_second_row(source: Path) -> None:
    good, errors = _read(source, "a.mp4,P1,glioma,,,,", "a.mp4,P2,healthy,,,,")
    assert good == [2]
    assert errors == [(3, "path", "stands in row 2 too")]


def test_a_row_with_more_cells_than_the_header_is_refused(source: Path) -> None:
    good, errors = _read(source, "a.mp4,P1,glioma,,,,,surplus")
    assert not good
    assert errors[0][1] == "path"


def test_wrong_columns_are_named(source: Path) -> None:
    (source / "manifest.csv").write_text("path,patient,label\n")
    with pytest.raises(WrongUseError, match=r"missing columns \['patient_id'\], unknown columns \['patient'\]"):
        incoming.read(source, [])


def test_a_draft_guesses_label_and_patient_from_folders_and_is_readable_again(tmp_path: Path) -> None:
    clip = tmp_path / "glioma" / "P7" / "one.mp4"
    clip.parent.mkdir(parents=True)
    clip.write_bytes(b"x")
    incoming.draft(tmp_path)
    good, errors = incoming.read(tmp_path, [])
    assert not errors
    assert (good[0].label, good[0].raw_patient_id, good[0].path) == ("glioma", "P7", clip)


def test_a_draft_never_overwrites(source: Path) -> None:
    incoming.draft(source)
    with pytest.raises(WrongUseError, match="exists already"):
        incoming.draft(source)


def test_a_row_never_shows_the_raw_patient_id(source: Path) -> None:
    (source / "manifest.csv").write_text("path,patient_id,label\na.mp4,Erika Mustermann,glioma\n")
    good, _ = incoming.read(source, [])
    assert "Erika" not in repr(good)
