"""What tests share: a missing capability is a failure where LCLSC_REQUIRE names it, a skip elsewhere."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock

import once
import pytest

from pipelines import settings, versioning
from pipelines.workspace import Workspace

settings.apply()
# Processes that share the tests share the cores: each takes its part, and a thread that waits leaves its core.
_CORES = len(os.sched_getaffinity(0)) // int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
os.environ.setdefault("OMP_NUM_THREADS", str(max(1, _CORES)))
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


FIRST = (
    *("e2e/test_main_job.py", "e2e/test_serve_flows.py", "e2e/test_team.py", "docs/test_docs.py"),
    *("e2e/test_forget.py", "e2e/test_reproduce.py", "e2e/test_bad_challengers.py", "e2e/test_audit.py"),
    *("e2e/test_faults.py", "e2e/test_recovery.py", "hostile/test_hostile.py"),
)
"""The longest files: begun last, one would be waited for. They alternate between what needs a whole retrain and not."""

OFF_THE_PATH = sorted(str(folder) for folder in Path("/usr/lib/postgresql").glob("*/bin"))
"""Where Debian keeps initdb; deploy/postgresql.sh looks there too."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files are shared out in this order."""
    here = Path(__file__).parent
    place = {here / name: number for number, name in enumerate(FIRST)}
    items.sort(key=lambda item: place.get(item.path, len(FIRST)))


@pytest.fixture(scope="session")
def require() -> Callable[[str], str]:
    """The path of a program; skips with one clear line, or fails where the program is promised."""

    def path_of(program: str) -> str:
        found = shutil.which(program, path=os.pathsep.join([os.environ["PATH"], *OFF_THE_PATH]))
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
    """Making a workspace takes seconds: once, then copied."""
    from pipelines import initialise

    def make(folder: Path) -> None:
        initialise.run(folder / "workspace", preset="cpu", remote=None)

    return once.made(tmp_path_factory, "empty", make) / "workspace"


@pytest.fixture
def workspace(empty_workspace: Path, tmp_path: Path) -> Workspace:
    """A workspace that nothing was taken into yet."""
    subprocess.run(["cp", "-a", str(empty_workspace), str(tmp_path / "w")], check=True)
    return Workspace(tmp_path / "w")


@pytest.fixture
def with_remotes(empty_workspace: Path, tmp_path: Path) -> Workspace:
    """As ``lclsc init first --remote remotes`` makes it, which ran DVC nine times."""
    subprocess.run(["cp", "-a", str(empty_workspace), str(tmp_path / "first")], check=True)
    workspace = Workspace(tmp_path / "first")
    config, beside = workspace.root / ".dvc" / "config", f"url = {tmp_path}/remotes/"
    config.write_text(re.sub(r"url = .*remotes/", beside, config.read_text()))
    assert config.read_text().count(beside) == 2
    shutil.rmtree(workspace.remotes)
    versioning.commit(workspace, [".dvc/config"], "Remotes beside it")
    return workspace


@pytest.fixture
def bucket() -> Iterator[str]:
    """An empty bucket of a server that speaks S3; the environment holds its address and credentials."""
    from e2e.servers import buckets

    with mock.patch.dict(os.environ), buckets("clinic"):
        yield "clinic"
