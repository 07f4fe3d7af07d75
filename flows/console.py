"""What people read: tables, errors, bars. Machines get JSON on stdout and nothing else there."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import sys
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

from rich.console import Console, JustifyMethod
from rich.markup import escape
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from pipelines.errors import LclscError

out = Console()
err = Console(stderr=True)
VERDICT_COLOURS = {"passed": "green", "refused": "red", "undecided": "yellow"}


def print_json(value: Any) -> None:
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
    sys.stdout.flush()


def say_served(line: str) -> None:
    """A line for whoever watches ``lclsc serve --flows``, which passes on what its runs print."""
    if os.environ.get("LCLSC_SERVING"):
        out.print(f"{time.strftime('%H:%M:%S')}  {line}", soft_wrap=True)


@contextlib.contextmanager
def stdout_to_stderr(wanted: bool) -> Iterator[None]:
    """Whatever libraries and children print: with ``--json``, stdout carries the JSON only."""
    if not wanted:
        yield
        return
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        sys.stdout.flush()
        os.dup2(kept, 1)
        os.close(kept)


def print_error(error: LclscError) -> None:
    body = Text(error.cause) + Text(f"\n→ {error.remedy}", style="cyan")
    err.print(Panel(body, title=error.code.replace("_", " "), title_align="left", border_style="red"))


def printable(text: str) -> str:
    """What somebody else wrote, without escapes and hidden signs."""
    return "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in text)


def plain(text: str) -> str:
    """What somebody else wrote, in a line of ours: printable, and never taken for markup."""
    return escape(printable(text))


def command(*words: object) -> str:
    """A command to be pasted into a shell: a word with a space in it stays one."""
    return plain(shlex.join(map(str, words)))


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[Any]], whole: Collection[str] = ()) -> Table:
    """A plain table; numbers to the right, missing values as a dash. Columns named in ``whole`` are never broken.

    A cell is shown as it stands, without markup; one with a colour is a ``Text``.
    """
    result = Table(title=title, title_justify="left", title_style="bold", header_style="dim", expand=False)
    cells = [[_shown(cell) for cell in row] for row in rows]
    for index, column in enumerate(columns):
        numeric = bool(cells) and all(_is_number(row[index].plain) for row in cells)
        justify: JustifyMethod = "right" if numeric else "left"
        result.add_column(column, justify=justify, overflow="fold", no_wrap=column in whole)
    for row in cells:
        result.add_row(*row)
    return result


def print_clauses(clauses: Iterable[Mapping[str, Any]]) -> None:
    """A line for every clause of the gate."""
    for clause in clauses:
        verdict = clause["verdict"]
        out.print(f"  [{VERDICT_COLOURS[verdict]}]{verdict}[/] {clause['name']}: {plain(clause['note'])}")


def figure(value: float | None, interval: Sequence[float] | None = None) -> str:
    """0.93, or 0.93 (0.88-0.97); a dash where there is no value."""
    if value is None:
        return "–"
    return f"{value:.3f}" + (f" ({interval[0]:.2f}–{interval[1]:.2f})" if interval else "")


def seconds(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:.0f} s" if value < 120 else f"{value / 60:.1f} min"


def _shown(cell: Any) -> Text:
    if isinstance(cell, Text):
        return cell
    return Text("–" if cell is None or cell == "" else "\n".join(map(printable, str(cell).split("\n"))))


def _is_number(cell: str) -> bool:
    return cell == "–" or cell.replace(".", "", 1).replace("-", "", 1).isdigit()
