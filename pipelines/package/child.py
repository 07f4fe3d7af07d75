"""Run a packaged model in a process of its own, with its own code and nothing of this checkout."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from pipelines import settings
from pipelines.errors import OutsideSystemError


def run(script: str, package: Path, *arguments: Path) -> str:
    """``script`` of this folder, isolated; returns what it printed. OutsideSystemError when it fails."""
    command = [*start_of(script, package), *(str(path.resolve()) for path in arguments)]
    done = subprocess.run(command, cwd=package, env=environment(), capture_output=True, text=True, check=False)
    if done.returncode:
        raise OutsideSystemError(
            "package_failed",
            f"The packaged model {package.name} could not be run: {done.stderr.strip()[-400:]}",
            "If the environment was upgraded since it was built, retrain: it may need the older one.",
        )
    return done.stdout


def start_of(script: str, package: Path) -> list[str]:
    """The command that runs ``script`` of this folder on ``package``; its further arguments go behind."""
    _remove_byte_code(package)
    return [sys.executable, "-I", "-B", str(Path(__file__).with_name(script).resolve()), str(package.resolve())]


def _remove_byte_code(package: Path) -> None:
    """The package's digest leaves it out, so it must not run in the source's place."""
    for folder in list(package.rglob("__pycache__")):
        shutil.rmtree(folder)


def environment() -> dict[str, str]:
    """The user's, without what would make a served model of it or tie it to a tracking store."""
    unwanted = ("PYTHON", "MLFLOW", "_MLFLOW", "__pyfunc", "LCLSC_SERVE")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(unwanted)}
    # One thread, as in evaluation: sums must not depend on how many cores this machine has.
    return kept | settings.OFFLINE | settings.SAFE | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
