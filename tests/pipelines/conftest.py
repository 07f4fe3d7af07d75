"""What the tests of packages, registry and gate share: a tiny real model, its package, an empty registry."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import mlflow_server as mlflow_servers
import numpy as np
import once
import pytest
from faults import promotions
from tiny import build_and_seal, write_model

from pipelines import promotion
from pipelines.files import digest, write_json
from pipelines.workspace import Workspace


def write_clip(path: Path, *, seed: int = 0, frames: int = 6, dark: int = 0, gain: float = 1.0) -> Path:
    """A drawn clip; the last ``dark`` frames are too dark to be kept."""
    from pipelines.synth.write import write_video

    generator = np.random.default_rng(seed)
    frames_FHW = (gain * generator.integers(20, 230, size=(frames, 64, 64), dtype=np.uint8)).astype(np.uint8)
    frames_FHW[frames - dark :] = 2
    path.parent.mkdir(parents=True, exist_ok=True)
    write_video(path, frames_FHW, fps=8)
    return path


@pytest.fixture(scope="session")
def make_model() -> Callable[..., None]:
    return write_model


@pytest.fixture(scope="session")
def make_clip() -> Callable[..., Path]:
    return write_clip


@pytest.fixture(scope="session")
def make_package() -> Callable[..., Path]:
    return build_and_seal


@pytest.fixture(scope="session")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One sealed package for every test that only reads it."""
    workspace = Workspace(tmp_path_factory.mktemp("model"))
    write_model(workspace.weights.parent)
    return build_and_seal(workspace, workspace.root / "package")


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Migrating a new tracking database takes seconds: once, then copied."""
    from pipelines import registry

    folder = once.made(tmp_path_factory, "database", lambda folder: registry.ensure_database(Workspace(folder)))
    return Workspace(folder).tracking_database


@pytest.fixture
def tracked(tmp_path: Path, empty_database: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """A workspace with an empty registry of its own, in a folder with a space in its name."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    root = tmp_path / "a workspace"
    root.mkdir()
    write_json(root / "workspace.json", {"format": 1, "key_id": None})
    subprocess.run(["git", "init", "--quiet", str(root)], check=True)
    shutil.copyfile(empty_database, root / "mlflow.db")
    return Workspace.open(root)


@pytest.fixture(scope="session")
def judged_template(tmp_path_factory: pytest.TempPathFactory, empty_database: Path) -> Workspace:
    """Version 1 is champion; 2 passed beside it and is challenger; 3 was not judged. Copied, never changed."""

    def make(folder: Path) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.delenv("MLFLOW_TRACKING_URI", raising=False)
            workspace = promotions.build(folder / "w", versions=3, database=empty_database)
            promotions.judge(workspace, "2")
            promotion.keep(workspace, "Judge version 2")

    return Workspace.open(once.made(tmp_path_factory, "judged", make) / "w")


@pytest.fixture
def judged(judged_template: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return promotions.copy(judged_template, tmp_path / "w")


# --- a team's registry: the same is asked of both ----------------------------------------------------

BOTH = ["sqlite", pytest.param("server", marks=pytest.mark.slow)]


@pytest.fixture(scope="session")
def mlflow_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[mlflow_servers.MlflowServer]:
    """On PostgreSQL and with accounts: once a session; whoever uses it takes a model name of their own."""
    with mlflow_servers.running(tmp_path_factory.mktemp("mlflow")) as server:
        yield server


@pytest.fixture(params=BOTH)
def tracked_anywhere(request: pytest.FixtureRequest, tracked: Workspace, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """``tracked`` on its own SQLite, and as a user of the server."""
    if request.param == "server":
        _use(request.getfixturevalue("mlflow_server"), monkeypatch)
    return tracked


@pytest.fixture(params=BOTH)
def judged_anywhere(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """``judged`` on its own SQLite, and as a user of the server."""
    if request.param == "sqlite":
        workspace: Workspace = request.getfixturevalue("judged")
        return workspace
    _use(request.getfixturevalue("mlflow_server"), monkeypatch)
    workspace = promotions.build(tmp_path / "w", versions=3, name=digest([request.node.name])[:12])
    promotions.judge(workspace, "2")
    promotion.keep(workspace, "Judge version 2")
    return workspace


def _use(server: mlflow_servers.MlflowServer, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
