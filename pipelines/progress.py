"""Progress of long work: a bar for people, lines for whoever runs a stage as a child."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

MARK = "::progress "
"""Starts a line of stdout that a parent turns into its own bar."""


@dataclass
class Tracker:
    """Counts what is done; ``note`` says the newest thing worth reading (a loss, a video)."""

    title: str
    total: int
    unit: str
    done: int = 0
    note: str = ""
    metrics: dict[str, float] = field(default_factory=dict)
    bar: Progress | None = None
    task: TaskID | None = None

    def advance(self, note: str = "", by: int = 1) -> None:
        self.update(self.done + by, note)

    def update(self, done: int, note: str = "", metrics: dict[str, float] | None = None) -> None:
        """``metrics`` of one finished epoch travel to whoever logs them live (the flow, to MLflow)."""
        self.done, self.note, self.metrics = done, note or self.note, metrics or {}
        if self.bar is not None and self.task is not None:
            self.bar.update(self.task, completed=self.done, note=self.note)
        elif os.environ.get("LCLSC_PROGRESS") == "lines":
            _print_line(self)

    def retitle(self, total: int, unit: str) -> None:
        """A child says later than its parent how much there is to do."""
        self.total, self.unit = total, unit
        if self.bar is not None and self.task is not None:
            self.bar.update(self.task, total=total, unit=unit)


def progress_bar() -> Progress:
    """The one look of every bar: what, how far, how long, how long still, and the newest note."""
    return Progress(
        SpinnerColumn(),
        TextColumn("[bold]{task.description:<9}"),
        BarColumn(bar_width=28),
        MofNCompleteColumn(),
        TextColumn("{task.fields[unit]}"),
        TimeElapsedColumn(),
        TextColumn("eta"),
        TimeRemainingColumn(),
        TextColumn("[dim]{task.fields[note]}"),
        console=Console(stderr=True),
        transient=False,
    )


@contextlib.contextmanager
def track(title: str, total: int, unit: str) -> Iterator[Tracker]:
    """A bar on a terminal, marked lines under a parent, silence in a pipe."""
    tracker = Tracker(title, total, unit)
    if os.environ.get("LCLSC_PROGRESS") == "lines":
        _print_line(tracker)
        yield tracker
    elif sys.stderr.isatty():
        with progress_bar() as bar:
            tracker.bar = bar
            tracker.task = bar.add_task(title, total=total, unit=unit, note="")
            yield tracker
    else:
        yield tracker


def parse(line: str) -> Tracker | None:
    """The tracker a child printed, or None for any other line."""
    if not line.startswith(MARK):
        return None
    try:
        return Tracker(**json.loads(line[len(MARK) :]))
    except (json.JSONDecodeError, TypeError):
        return None


def _print_line(tracker: Tracker) -> None:
    fields = {"title": tracker.title, "total": tracker.total, "unit": tracker.unit}
    print(
        MARK + json.dumps(fields | {"done": tracker.done, "note": tracker.note, "metrics": tracker.metrics}),
        flush=True,
    )
