"""What tests share: a missing capability is a failure where LCLSC_REQUIRE names it, a skip elsewhere."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock

import pytest

from pipelines import settings
from pipelines.workspace import Workspace

settings.apply()


@pytest.fixture(scope="session")
def require() -> Callable[[str], str]:
    """The path of a program; skips with one clear line, or fails where the program is promised."""

    def path_of(program: str) -> str:
        found = shutil.which(program)
        if found is None and program in os.environ.get("LCLSC_REQUIRE", "").split(","):
            pytest.fail(f"{program} is promised by LCLSC_REQUIRE and missing")
        if found is None:
            pytest.skip(f"{program} is not installed")
        return found

    return path_of


@pytest.fixture(autouse=True)
def _own_key_file(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test touches the key that a person keeps in their configuration folder."""
    monkeypatch.setenv("LCLSC_KEY_FILE", str(tmp_path_factory.mktemp("keys") / "patients.key"))


@pytest.fixture(autouse=True)
def _own_import_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """MLflow leaves a loaded package's code in front of the import path, where a later child process would find it."""
    monkeypatch.setattr(sys, "path", sys.path.copy())


@pytest.fixture(scope="session")
def empty_workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Making a workspace takes seconds: once a session, then copied."""
    from pipelines import initialise

    root = tmp_path_factory.mktemp("empty") / "workspace"
    initialise.run(root, preset="cpu", remote=None)
    return root


@pytest.fixture
def workspace(empty_workspace: Path, tmp_path: Path) -> Workspace:
    """A workspace that nothing was taken into yet."""
    subprocess.run(["cp", "-a", str(empty_workspace), str(tmp_path / "w")], check=True)
    return Workspace(tmp_path / "w")


@pytest.fixture
def bucket() -> Iterator[str]:
    """An empty bucket of a server that speaks S3; the environment holds its address and credentials."""
    from e2e.servers import buckets

    with mock.patch.dict(os.environ), buckets("clinic"):
        yield "clinic"
