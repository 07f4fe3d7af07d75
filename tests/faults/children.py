"""Real processes for faults: forked, so that none pays for its imports, each the leader of its own session."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

FORK = multiprocessing.get_context("fork")
PATIENCE_SECONDS = 300.0
GRACE_SECONDS = 5.0  # for what is ending anyway


class Child:
    """A process that runs ``function`` and leaves its answer in a file."""

    def __init__(self, function: Callable[..., dict[str, Any]], *arguments: Any) -> None:
        self.folder = tempfile.TemporaryDirectory(prefix="child-")
        self.answer = Path(self.folder.name) / "answer.json"
        self.process = FORK.Process(target=_run, args=(self.answer, function, arguments))
        self.process.start()

    def end(self) -> dict[str, Any]:
        """What it answered, or the signal that ended it."""
        with self.folder:
            self.process.join(PATIENCE_SECONDS)
            if self.process.exitcode is None:
                self.process.kill()
            if self.process.exitcode != 0:
                return {"signal": -(self.process.exitcode or 0)}
            return dict(json.loads(self.answer.read_text()))


def in_child(function: Callable[..., dict[str, Any]], *arguments: Any) -> dict[str, Any]:
    return Child(function, *arguments).end()


def of_folder(folder: Path) -> list[str]:
    """Processes that a run in ``folder`` left behind, ended now: its path stands in their environment or command."""
    mark = f"{folder}/"
    found = [process for process in psutil.process_iter() if mark in _words(process)]
    _, alive = psutil.wait_procs(found, timeout=GRACE_SECONDS)
    told = []
    for process in alive:
        with contextlib.suppress(psutil.NoSuchProcess):
            if process.status() != psutil.STATUS_ZOMBIE:
                told.append(" ".join([process.name(), *process.cmdline()])[:120])
                process.kill()
    return told


def _words(process: psutil.Process) -> str:
    try:
        return " ".join([*process.cmdline(), *process.environ().values()])
    except (psutil.AccessDenied, psutil.NoSuchProcess, psutil.ZombieProcess):
        return ""


def _run(answer: Path, function: Callable[..., dict[str, Any]], arguments: tuple[Any, ...]) -> None:
    os.setsid()
    os.environ.pop("MLFLOW_TRACKING_URI", None)
    answer.write_text(json.dumps(function(*arguments)))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # threads that this one's parent had, Prefect's among them, are not waited for
