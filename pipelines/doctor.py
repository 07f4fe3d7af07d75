"""Is this machine, and this workspace, fit to work? Each finding comes with its remedy."""

from __future__ import annotations

import importlib.metadata
import platform
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import asdict, dataclass

from pipelines import locks, versioning
from pipelines.errors import LclscError
from pipelines.workspace import Workspace, template_file

MIN_FREE_BYTES = 5 * 2**30


@dataclass(frozen=True)
class Finding:
    name: str
    ok: bool
    found: str
    remedy: str = ""

    def as_json(self) -> dict[str, object]:
        return asdict(self)


def run(workspace: Workspace | None) -> list[Finding]:
    findings = [*_versions(), *_programs()]
    if workspace is not None:
        findings += [_disk(workspace), _lock(workspace), *_remote(workspace)]
    return findings


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


def _programs() -> Iterator[Finding]:
    git = shutil.which("git")
    found = subprocess.run([git, "--version"], capture_output=True, text=True, check=False).stdout if git else ""
    yield Finding("git", bool(git), found.strip() or "missing", "Install git.")


def _disk(workspace: Workspace) -> Finding:
    free = shutil.disk_usage(workspace.root).free
    return Finding(
        "disk",
        free >= MIN_FREE_BYTES,
        f"{free / 2**30:.1f} GiB free",
        "Free some disk: a retrain needs at least 5 GiB.",
    )


def _lock(workspace: Workspace) -> Finding:
    holder = locks.holder(workspace)
    text = "free" if holder is None else f"held by process {holder.get('pid')} since {holder.get('since')}"
    return Finding("workspace lock", True, text)


def _remote(workspace: Workspace) -> Iterator[Finding]:
    try:
        missing = versioning.missing_objects(workspace)
    except (LclscError, OSError) as error:
        yield Finding("DVC remotes", False, str(error), "Check the remote's address and rights in .dvc/config.")
        return
    yield Finding(
        "DVC remotes",
        not missing,
        "hold every object" if not missing else f"{len(missing)} objects missing",
        "Run `lclsc retrain`, which pushes and checks.",
    )
