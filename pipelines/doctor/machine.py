"""What does not depend on a workspace: Python, packages, programs, telemetry."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import shutil
import subprocess
from collections.abc import Iterator

from pipelines import settings
from pipelines.doctor.finding import Finding
from pipelines.workspace import template_file


def findings() -> Iterator[Finding]:
    yield from _versions()
    yield _git()
    yield _telemetry()


def _versions() -> Iterator[Finding]:
    python = platform.python_version()
    yield Finding("python", python.startswith("3.11."), python, "Use Python 3.11, which the lock file is resolved for.")
    wrong = [
        f"{name} {found or 'missing'} (wants {wanted})"
        for name, wanted in _locked_versions().items()
        if (found := _installed(name)) != wanted
    ]
    yield Finding(
        "packages",
        not wrong,
        "as locked" if not wrong else ", ".join(wrong[:5]),
        "Run `make install`, or `pip install -r requirements.lock`.",
    )


def _locked_versions() -> dict[str, str]:
    lines = template_file("requirements.lock").read_text().splitlines()
    pins = (re.match(r"([A-Za-z0-9_.-]+)==([^\s;]+)", line) for line in lines)
    return {pin[1]: pin[2] for pin in pins if pin}


def _installed(name: str) -> str | None:
    try:
        return importlib.metadata.version(name).split("+")[0]
    except importlib.metadata.PackageNotFoundError:
        return None


def _git() -> Finding:
    git = shutil.which("git")
    found = subprocess.run([git, "--version"], capture_output=True, text=True, check=False).stdout if git else ""
    return Finding("git", bool(git), found.strip() or "missing", "Install git.")


def _telemetry() -> Finding:
    """What the environment says now; `lclsc` sets what nobody has set."""
    on = sorted(name for name, off in settings.OFFLINE.items() if os.environ.get(name, off).lower() != off)
    return Finding("telemetry", not on, "off" if not on else f"{', '.join(on)} set", f"Unset {' '.join(on)}.")
