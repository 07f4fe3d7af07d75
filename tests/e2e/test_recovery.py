"""What docs/recovery.md says to do after a loss, done."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from e2e.line import Line

from pipelines import registry
from pipelines.workspace import Workspace

pytestmark = pytest.mark.slow


@pytest.fixture
def line(built: Line, tmp_path: Path) -> Line:
    return built.copy(tmp_path / "clinic")


def is_whole(line: Line) -> None:
    """Nothing has to run again, and every claim about the champion holds."""
    assert line.json("retrain")["status"] == "up_to_date"
    assert line.json("audit", "@champion")["verdict"] == "pass"


def test_state_cache_and_registry_lost_at_once_come_back(
    line: Line, tmp_path: Path, require: Callable[[str], str]
) -> None:
    backup = tmp_path / "backup"
    backup.mkdir()
    line.tool(require("sqlite3"), "mlflow.db", f".backup {backup / 'mlflow.db'}")
    shutil.copytree(line.root / "mlartifacts", backup / "mlartifacts")
    for name in (".state", ".dvc/cache", "mlartifacts"):
        shutil.rmtree(line.root / name)
    (line.root / "mlflow.db").unlink()
    line.tool("dvc", "fetch")
    before = (line.root / "ledger.jsonl").read_bytes()
    for command in (("retrain",), ("promote", "1"), ("rollback", "--reason", "lost")):
        assert line.json(*command, expect=3)["error"]["code"] == "registry_lost"
    line.run("doctor", "--repair", expect=1)
    found = line.json("doctor", expect=1)["findings"]
    assert "the ledger knows version 1" in next(one["found"] for one in found if one["name"] == "MLflow database")
    assert not (line.root / "mlflow.db").exists()  # nobody took it for a new one
    assert (line.root / "ledger.jsonl").read_bytes() == before
    shutil.copyfile(backup / "mlflow.db", line.root / "mlflow.db")
    shutil.copytree(backup / "mlartifacts", line.root / "mlartifacts")
    is_whole(line)


def test_a_lost_machine_comes_back_from_git_remotes_and_the_copy(line: Line, tmp_path: Path) -> None:
    """The remotes are elsewhere in real life; here the folder stands in for that place."""
    subprocess.run(["git", "clone", "--quiet", str(line.root), str(tmp_path / "new")], check=True)
    new = Line(tmp_path / "new", Path(line.environment["LCLSC_KEY_FILE"]))
    for name in ("remotes", "mlartifacts"):
        shutil.copytree(line.root / name, new.root / name)
    shutil.copyfile(line.root / "mlflow.db", new.root / "mlflow.db")
    promoter = line.tool("git", "config", "--local", "lclsc.clone").strip()
    shutil.rmtree(line.root)
    new.tool("git", "remote", "remove", "origin")
    new.tool("git", "config", "--local", "lclsc.clone", promoter)
    new.tool("dvc", "pull")
    is_whole(new)
    place = Workspace(new.root)
    registry.connect(place).set_alias("challenger", "1")  # which only the promoting clone may
