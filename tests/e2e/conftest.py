"""One real workspace, built once: real videos, git, DVC, Ray, MLflow, Prefect, through the command line."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from e2e.line import LCLSC, PERMISSIVE, Line

TINY = {"epochs": 2, "batch_images": 16}
"""Enough to go through every step; nobody asks this model for good answers."""


@pytest.fixture(scope="session")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes of five patients, and, in ``more``, one further patient a class."""
    folder = tmp_path_factory.mktemp("phantoms")
    for name, options in (("first", []), ("more", ["--first-patient", "5", "--patients", "1"])):
        command = [LCLSC, "synth", str(folder / name), "--preset", "micro", *options]
        subprocess.run(command, check=True, capture_output=True)
    return folder


@pytest.fixture(scope="session")
def taken_in(tmp_path_factory: pytest.TempPathFactory, phantoms: Path) -> Line:
    """A workspace after its first intake: copy it, do not change it."""
    folder = tmp_path_factory.mktemp("taken-in")
    line = Line(folder / "workspace", folder / "keys" / "patients.key")
    subprocess.run([LCLSC, "init", str(line.root), "--preset", "cpu"], env=line.environment, check=True)
    line.set_params(
        train=TINY,
        split={"validation": 0.2, "test": 0.2},
        evaluate={"corruption_frames": 3, "faithfulness_frames": 3},
        promote=PERMISSIVE,
    )
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
