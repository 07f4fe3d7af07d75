"""One real workspace, built once: real videos, git, DVC, Ray, MLflow, Prefect, through the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from e2e.line import Line, draw_batches, micro_workspace


@pytest.fixture(scope="session")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes of five patients, and, in ``more``, one further patient a class."""
    folder = tmp_path_factory.mktemp("phantoms")
    draw_batches(folder)
    return folder


@pytest.fixture(scope="session")
def taken_in(tmp_path_factory: pytest.TempPathFactory, phantoms: Path) -> Line:
    """A workspace after its first intake: copy it, do not change it."""
    folder = tmp_path_factory.mktemp("taken-in")
    line = micro_workspace(folder / "workspace", folder / "keys" / "patients.key")
    report = line.json("intake", str(phantoms / "first"))
    assert (len(report["taken"]), report["errors"], report["quarantined"]) == (15, [], [])
    return line


@pytest.fixture(scope="session")
def built(taken_in: Line, tmp_path_factory: pytest.TempPathFactory) -> Line:
    """A copy after its first retrain, undisturbed: copy it, do not change it."""
    line = taken_in.copy(tmp_path_factory.mktemp("built") / "workspace")
    report = line.json("retrain")
    assert report["status"] == "registered"
    return line


@pytest.fixture(scope="session")
def grown(built: Line, phantoms: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Line, Any]:
    """A copy after the second batch and its retrain, whose report comes along: copy it, do not change it."""
    line = built.copy(tmp_path_factory.mktemp("grown") / "workspace")
    assert line.json("intake", str(phantoms / "more"))["patients"] == {"train": 3}
    return line, line.json("retrain")
