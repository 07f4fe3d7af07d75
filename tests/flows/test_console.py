"""What people wrote is shown as they wrote it."""

from __future__ import annotations

import io

import pytest
from rich.console import Console
from rich.text import Text

from flows import console


def _shown(what: object) -> str:
    out = io.StringIO()
    Console(file=out, width=100, color_system=None).print(what)
    return out.getvalue()


@pytest.mark.parametrize("reason", ["see [/ticket 5]", "worse on [red]", "a \\[b]"])
def test_brackets_are_no_markup(reason: str) -> None:
    assert reason in _shown(console.table("Aliases", ("because",), [(reason,)]))
    assert reason in _shown(console.plain(reason))


def test_escapes_of_a_terminal_are_shown_and_lines_of_ours_stay() -> None:
    shown = _shown(console.table("", ("name",), [("\x1b[2Jx\nas before",)]))
    assert "\\x1b[2Jx" in shown
    assert "as before" in shown.splitlines()[-2]


def test_numbers_stand_to_the_right_beside_cells_with_a_colour() -> None:
    table = console.table("", ("n", "verdict"), [(1, Text("ok", "green")), (None, Text("mend", "red"))])
    assert [column.justify for column in table.columns] == ["right", "left"]
