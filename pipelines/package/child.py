"""Run a packaged model in a process of its own, with its own code and nothing of this checkout."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from pipelines import settings
from pipelines.errors import OutsideSystemError
from pipelines.files import temporary_name

_waiting: dict[str, subprocess.Popen[str]] = {}


def prepare(script: str) -> None:
    """Start ``script`` now: it imports what any package needs, seconds of torch, and waits for :func:`run`.

    It ends by itself when this process does.
    """
    if script not in _waiting or _waiting[script].poll() is not None:
        _waiting[script] = _started(_isolated(script), Path.cwd())


def run(script: str, package: Path, *arguments: Path) -> str:
    """``script`` of this folder, isolated; returns what it printed. OutsideSystemError when it fails."""
    given = [str(path.resolve()) for path in arguments]
    process = _waiting.pop(script, None)
    asked = None
    if process is not None and process.poll() is None:
        _remove_byte_code(package)
        asked = json.dumps([str(package.resolve()), *given])
    else:
        process = _started([*start_of(script, package), *given], package)
    with process:
        try:
            said, complaint = process.communicate(asked)
        except BaseException:  # stopped by hand, or out of time
            process.kill()
            raise
    if process.returncode < 0:  # says nothing about the model
        raise OutsideSystemError(
            "package_killed",
            f"The process of the packaged model {package.name} was ended by signal {-process.returncode}.",
            "Free memory if there is little, and run the same command again.",
            transient=True,
        )
    if process.returncode:
        raise OutsideSystemError(
            "package_failed",
            f"The packaged model {package.name} could not be run: {complaint.strip()[-400:]}",
            "If the environment was upgraded since it was built, retrain: it may need the older one.",
        )
    return said


def start_of(script: str, package: Path) -> list[str]:
    """The command that runs ``script`` of this folder on ``package``; its further arguments go behind."""
    _remove_byte_code(package)
    return [*_isolated(script), str(package.resolve())]


def _isolated(script: str) -> list[str]:
    return [sys.executable, "-I", "-B", str(Path(__file__).with_name(script).resolve())]


def _started(command: list[str], folder: Path) -> subprocess.Popen[str]:
    pipe = subprocess.PIPE
    return subprocess.Popen(
        command, cwd=folder, env=environment(), stdin=pipe, stdout=pipe, stderr=pipe, encoding="utf-8", errors="replace"
    )


def _remove_byte_code(package: Path) -> None:
    """The package's digest leaves it out, so it must not run in the source's place."""
    for folder in list(package.rglob("__pycache__")):
        shutil.rmtree(folder)


def environment() -> dict[str, str]:
    """The user's, without what would make a served model of it or tie it to a tracking store."""
    unwanted = ("PYTHON", "MLFLOW", "_MLFLOW", "__pyfunc", "LCLSC_SERVE", "RAY_ADDRESS")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(unwanted)}
    # One thread, as in evaluation: sums must not depend on how many cores this machine has.
    own = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "LCLSC_TEMPORARY": temporary_name()}
    return kept | settings.OFFLINE | settings.SAFE | own
