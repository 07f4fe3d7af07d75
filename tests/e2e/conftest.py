"""One real workspace, built once: real videos, git, DVC, Ray, MLflow, Prefect, through the command line.

Processes that share the tests share what is made here; each works on a copy of its own.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import once
import pytest
from e2e.line import Line, draw_batches, micro_workspace


@pytest.fixture(scope="session")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes of five patients, and, in ``more``, one further patient a class."""
    return once.made(tmp_path_factory, "phantoms", draw_batches)


@pytest.fixture(scope="session")
def taken_in(tmp_path_factory: pytest.TempPathFactory, phantoms: Path) -> Line:
    """A workspace after its first intake: copy it, do not change it."""

    def make(folder: Path) -> None:
        line = micro_workspace(folder / "workspace", folder / "keys" / "patients.key")
        report = line.json("intake", str(phantoms / "first"))
        assert (len(report["taken"]), report["errors"], report["quarantined"]) == (15, [], [])

    folder = once.made(tmp_path_factory, "taken-in", make)
    return Line(folder / "workspace", folder / "keys" / "patients.key")


@pytest.fixture(scope="session")
def built(taken_in: Line, tmp_path_factory: pytest.TempPathFactory) -> Line:
    """A copy after its first retrain, undisturbed: copy it, do not change it."""

    def make(folder: Path) -> None:
        report = taken_in.copy(folder / "workspace").json("retrain")
        assert report["status"] == "registered"

    return _own_copy(once.made(tmp_path_factory, "built", make), taken_in, tmp_path_factory)


@pytest.fixture(scope="session")
def grown(built: Line, phantoms: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Line, Any]:
    """A copy after the second batch and its retrain, whose report comes along: copy it, do not change it."""

    def make(folder: Path) -> None:
        line = built.copy(folder / "workspace")
        assert line.json("intake", str(phantoms / "more"))["patients"] == {"train": 3}
        (folder / "report.json").write_text(json.dumps(line.json("retrain", "--workers", "1")))

    folder = once.made(tmp_path_factory, "grown", make)
    return _own_copy(folder, built, tmp_path_factory), json.loads((folder / "report.json").read_text())


def _own_copy(made: Path, before: Line, factory: pytest.TempPathFactory) -> Line:
    """Even a question leaves its traces in an index, a lock or a log."""
    root = factory.mktemp(made.name) / "workspace"
    subprocess.run(["cp", "-a", str(made / "workspace"), str(root)], check=True)
    subprocess.run(["git", "status"], cwd=root, check=True, capture_output=True)  # git knows the copied files anew
    return Line(root, Path(before.environment["LCLSC_KEY_FILE"]))
