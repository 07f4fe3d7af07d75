from __future__ import annotations

import os
from pathlib import Path

import pytest

from pipelines.errors import WrongUseError
from pipelines.intake import incoming
from pipelines.intake.sources import LocalFolder

HEADER = "path,patient_id,label,domain,split,mask,sha256\n"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    (tmp_path / "a.mp4").write_bytes(b"a")
    (tmp_path / "b.mp4").write_bytes(b"b")
    return tmp_path


def _read(source: Path, *rows: str, allowed: list[str] | None = None) -> tuple[list[int], list[tuple[int, str, str]]]:
    (source / "manifest.csv").write_text(HEADER + "\n".join(rows) + "\n")
    found = incoming.read(LocalFolder(source), allowed or [])
    return [row.row for row in found.rows], [(error.row, error.column, error.message) for error in found.errors]


def test_good_rows_go_on_beside_bad_ones(source: Path) -> None:
    good, errors = _read(source, "a.mp4,P1,glioma,,,,", ",P2,glioma,,,,", "b.mp4,,glioma,,,,")
    assert good == [2]
    assert errors[0][:2] == (3, "path")
    assert errors[1] == (4, "patient_id", "is empty")


def test_an_unknown_label_names_the_nearest_allowed_one(source: Path) -> None:
    _, errors = _read(source, "a.mp4,P1,gliom,,,,", allowed=["glioma", "healthy"])
    assert "did you mean 'glioma'?" in errors[0][2]


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("../a.mp4", "name_escapes"),
        ("sub/../../a.mp4", "name_escapes"),
        ("sub\\..\\a.mp4", "name_escapes"),
        ("~root/a.mp4", "name_escapes"),
        (".", "name_escapes"),
        ("./.", "name_escapes"),
        ("/etc/passwd", "name_absolute"),
        ("C:\\a.mp4", "name_absolute"),
        ("-rf", "name_option"),
        ("sub/--help.mp4", "name_option"),
        ("$(reboot).mp4", "name_command"),
        ("`reboot`.mp4", "name_command"),
        ("a.mp4; reboot", "name_command"),
        ("=cmd|' /C calc'!A0.mp4", "name_formula"),
        ("@SUM(1+1).mp4", "name_formula"),
        ("a\x00.mp4", "name_control"),
        ("a\x1b[2J.mp4", "name_control"),
        ("gpm.\u202e4pm", "name_hidden"),
        ("a\u200b.mp4", "name_hidden"),
        ("a" * 252 + ".mp4", "name_too_long"),
        ("ä" * 126 + ".mp4", "name_too_long"),
        ("a/" * 2001 + "a.mp4", "name_too_long"),
    ],
)
def test_a_name_that_escapes_hides_or_would_run_is_set_aside(source: Path, path: str, code: str) -> None:
    (source / "manifest.csv").write_text(f'{HEADER}"{path}",P1,glioma,,,,\n')
    found = incoming.read(LocalFolder(source), [])
    assert [(aside.row, aside.path, aside.error.code) for aside in found.aside] == [(2, path, code)]
    assert (found.rows, found.errors) == ([], [])


def test_a_mask_that_is_the_folder_itself_is_set_aside(source: Path) -> None:
    (source / "manifest.csv").write_text("path,patient_id,label,mask\na.mp4,P1,glioma,./\n")
    found = incoming.read(LocalFolder(source), [])
    assert [(aside.row, aside.error.code) for aside in found.aside] == [(2, "name_escapes")]


@pytest.mark.parametrize("path", ["H&E (2) O'Brien, 12:30.mp4", "Köln/Fall 7#é.mp4", "a" * 251 + ".mp4", "日本/1.mkv"])
def test_names_of_people_and_places_are_fine(source: Path, path: str) -> None:
    assert _read(source, f'"{path}",P1,glioma,,,,') == ([2], [])


def test_a_name_over_two_lines_is_set_aside_with_the_line_it_ends_on(source: Path) -> None:
    (source / "manifest.csv").write_text(f'{HEADER}"a\nb.mp4",P1,glioma,,,,\n')
    found = incoming.read(LocalFolder(source), [])
    assert [(aside.row, aside.error.code) for aside in found.aside] == [(3, "name_control")]


@pytest.mark.parametrize(
    ("cells", "column"),
    [
        ("a.mp4,P\u202e1,glioma,x", "patient_id"),
        ("a.mp4,P,glioma,=HYPERLINK(1)", "site"),
        (f"a.mp4,P,a,{'x' * 65}", "site"),
    ],
)
def test_text_that_deceives_or_runs_is_a_row_error(source: Path, cells: str, column: str) -> None:
    (source / "manifest.csv").write_text(f"path,patient_id,label,site\n{cells}\n", encoding="utf-8")
    found = incoming.read(LocalFolder(source), [])
    assert [(error.column, error.value) for error in found.errors] == [(column, "")]


def test_a_manifest_that_is_a_link_or_a_pipe_is_not_read(source: Path) -> None:
    (source / "manifest.csv").symlink_to(source / "a.mp4")
    with pytest.raises(WrongUseError, match="names a link"):
        incoming.read(LocalFolder(source), [])
    (source / "manifest.csv").unlink()
    os.mkfifo(source / "manifest.csv")
    with pytest.raises(WrongUseError, match="names a pipe"):
        incoming.read(LocalFolder(source), [])


def test_semicolons_of_a_spreadsheet_are_read_as_commas_are(source: Path) -> None:
    (source / "manifest.csv").write_text("\ufeffpath;patient_id;label\r\na.mp4;P1;glioma\r\n", encoding="utf-8")
    assert [row.label for row in incoming.read(LocalFolder(source), []).rows] == ["glioma"]


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
        incoming.read(LocalFolder(source), [])


def test_a_draft_guesses_label_and_patient_from_folders_and_is_readable_again(tmp_path: Path) -> None:
    clip = tmp_path / "glioma" / "P7" / "one.mp4"
    clip.parent.mkdir(parents=True)
    clip.write_bytes(b"x")
    incoming.draft(tmp_path)
    found = incoming.read(LocalFolder(tmp_path), [])
    assert not found.errors
    assert (found.rows[0].label, found.rows[0].raw_patient_id) == ("glioma", "P7")
    assert tmp_path / found.rows[0].path == clip


def test_a_draft_never_overwrites(source: Path) -> None:
    incoming.draft(source)
    with pytest.raises(WrongUseError, match="exists already"):
        incoming.draft(source)


def test_a_draft_makes_no_folder(tmp_path: Path) -> None:
    with pytest.raises(WrongUseError, match=r"There is no folder .*nofolder\."):
        incoming.draft(tmp_path / "nofolder")
    assert list(tmp_path.iterdir()) == []


def test_a_draft_says_what_it_leaves_out(source: Path) -> None:
    (source / "link.mp4").symlink_to(source / "a.mp4")
    (source / "linked").symlink_to(source)
    os.mkfifo(source / "pipe.mp4")
    (source / "sub").mkdir()
    (source / "sub" / os.fsdecode(b"notes \xff.docx")).touch()
    (source / "frames").mkdir()
    for name in ("rate.txt", "1.png"):
        (source / "frames" / name).touch()
    draft = incoming.draft(source)
    assert {one.path: one.what for one in draft.skipped} == {
        "link.mp4": "a link",
        "linked": "a link",
        "pipe.mp4": "a pipe",
        "sub/notes \\xff.docx": "no kind of file that is read here",
    }
    assert draft.videos == 3
    assert [line.split(",")[0] for line in draft.path.read_text().splitlines()[1:]] == ["a.mp4", "b.mp4", "frames"]


def test_a_header_alone_is_said(source: Path) -> None:
    (source / "manifest.csv").write_text(HEADER)
    with pytest.raises(WrongUseError, match="has a header and no rows"):
        incoming.read(LocalFolder(source), [])


def test_a_row_never_shows_the_raw_patient_id(source: Path) -> None:
    (source / "manifest.csv").write_text("path,patient_id,label\na.mp4,Erika Mustermann,glioma\n")
    assert "Erika" not in repr(incoming.read(LocalFolder(source), []).rows)
