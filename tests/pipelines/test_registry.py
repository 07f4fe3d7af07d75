"""Registration finishes what was begun, once; a workspace can be moved; MLflow itself can load the result."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipelines import lineage, locks, params_file, register, registry, versioning
from pipelines.errors import OutsideSystemError, StageError
from pipelines.files import digest
from pipelines.registry import Registry, Submission, database
from pipelines.workspace import Workspace

HISTORY = [{"epoch": epoch, "loss": 1.0 / epoch, "validation_macro_f1": None} for epoch in (1, 2, 3)]


@pytest.fixture
def embedded(tracked: Workspace) -> Registry:
    return registry.connect(tracked, "lclsc")


@pytest.fixture
def connected(tracked_anywhere: Workspace, request: pytest.FixtureRequest) -> Registry:
    """On SQLite, and on a server with PostgreSQL and accounts."""
    return registry.connect(tracked_anywhere, digest([request.node.name])[:12])


def submission(package: Path, **changes: Any) -> Submission:
    fields: dict[str, Any] = {
        "key": "k" * 64,
        "train_key": "t" * 64,
        "data_version": "0123456789ab",
        "package": package,
        "params": {"train": {"seed": 0, "views": {"blur": 0.2}}},
        "history": HISTORY,
    }
    return Submission(**(fields | changes))


def fresh(connected: Registry) -> Registry:
    """As the next process would see it."""
    return registry.connect(connected.workspace, connected.name)


def test_a_registered_version_carries_what_explains_it(connected: Registry, package: Path) -> None:
    report = package.parent / "report.html"
    report.write_text("<html></html>")
    made = connected.register(submission(package, artifacts=[report]))
    connected.complete(made.version)
    found = fresh(connected).find_version("k" * 64)
    assert found is not None
    assert found.complete
    record = lineage.read(package)
    assert found.version == "1"
    assert found.tags["weights_sha256"] == record["weights_sha256"]
    assert found.tags["lineage_sha256"] == lineage.sha256(record)
    assert found.tags["git_commit"] == record["git_commit"]
    assert found.metrics == {"macro_f1": 0.9, "saliency_iou": None}
    assert connected.find_version_by_weights(record["weights_sha256"]) == found
    assert connected.find_version_by_weights("0" * 64) is None
    run = connected.client.get_run(found.run_id)
    assert run.info.status == "FINISHED"
    assert run.data.params == {"train.seed": "0", "train.views.blur": "0.2"}
    assert run.data.metrics["macro_f1"] == 0.9
    assert "saliency_iou" not in run.data.metrics, "no value is no value, never 0"
    assert {entry.dataset.digest for entry in run.inputs.dataset_inputs} == {
        split["sha256"][:36] for split in record["data"]["splits"].values()
    }
    names = {entry.path for entry in connected.client.list_artifacts(found.run_id)}
    assert names == {"lineage.json", "report.html"}


def test_registering_twice_makes_one_version(connected: Registry, package: Path) -> None:
    first = connected.register(submission(package))
    assert fresh(connected).register(submission(package)) == first
    assert len(connected.versions()) == 1


class Killed(BaseException):
    """Stands for kill -9: nothing below may catch it."""


class DiesAfter:
    """MLflow's client, until the process dies behind its nth change."""

    def __init__(self, client: Any, changes: int) -> None:
        self.client, self.left = client, changes
        self.log: list[str] = []

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self.client, name)

        def call(*arguments: Any, **named: Any) -> Any:
            result = method(*arguments, **named)
            if name.startswith(("create", "log", "set", "finalize")):
                self.log.append(name)
                self.left -= 1
                if self.left == 0:
                    raise Killed(name)
            return result

        return call


def test_a_registration_killed_after_any_step_is_finished_by_the_next(
    tracked_anywhere: Workspace, package: Path
) -> None:
    steps = 0
    while True:
        steps += 1 if registry.is_embedded(tracked_anywhere) else 6  # the server is asked of a sample
        name = f"killed-{steps}"
        alive = registry.connect(tracked_anywhere, name)
        dying = Registry(workspace=tracked_anywhere, name=name, uri=alive.uri, client=DiesAfter(alive.client, steps))
        try:
            dying.register(submission(package))
            break
        except Killed:
            version = alive.register(submission(package))
        assert [one.version for one in alive.versions()] == ["1"]
        run = alive.client.get_run(version.run_id)
        assert run.info.status == "FINISHED"
        assert len(alive.client.search_runs([alive.experiment_id()])) == 1
        assert len(alive.client.get_metric_history(version.run_id, "loss")) == 3
        assert len(alive.client.search_logged_models([alive.experiment_id()])) == 1
        assert len(run.outputs.model_outputs) == 1
        assert len(run.inputs.dataset_inputs) == 3
        assert alive.download(version).is_dir()
    assert steps > 10, dying.client.log


def test_history_is_replayed_without_doubles(connected: Registry) -> None:
    run_id = connected.find_or_create_run("key", "retrain")
    assert connected.log_history(run_id, HISTORY[:2]) == 2  # live, while training
    assert connected.log_history(run_id, HISTORY) == 1
    assert connected.log_history(run_id, HISTORY) == 0
    points = connected.client.get_metric_history(run_id, "loss")
    assert [(point.step, point.value) for point in points] == [(row["epoch"], row["loss"]) for row in HISTORY]


def test_a_long_history_is_logged_in_batches(connected: Registry) -> None:
    run_id = connected.find_or_create_run("key", "retrain")
    rows = [{"epoch": epoch, "a": 1.0, "b": 2.0} for epoch in range(600)]
    assert connected.log_history(run_id, rows) == 1200
    assert len(connected.client.get_metric_history(run_id, "b")) == 600


def test_one_run_a_key(connected: Registry) -> None:
    first = connected.find_or_create_run("one", "retrain")
    assert connected.find_or_create_run("one", "retrain again") == first
    assert connected.find_or_create_run("two", "retrain") != first


@pytest.fixture
def other_package(tmp_path: Path, make_model: Callable[..., None], make_package: Callable[..., Path]) -> Path:
    """The same work on another platform: other weights."""
    workspace = Workspace(tmp_path / "other")
    make_model(workspace.weights.parent, seed=1)
    environment = {
        **{"lock_sha256": "3" * 64, "python": "3.11.9", "platform": "Linux-aarch64"},
        **{"cpu": "DEFAULT", "gpu": "NVIDIA H200", "threads": 4},
    }
    return make_package(workspace, workspace.root / "package", environment=environment)


def test_the_same_inputs_with_other_weights_are_refused_and_both_platforms_named(
    connected: Registry, package: Path, other_package: Path
) -> None:
    connected.register(submission(package))
    with pytest.raises(StageError, match=r"Linux-x86_64 AVX2.*Linux-aarch64 NVIDIA H200"):
        connected.register(submission(other_package))
    assert len(connected.versions()) == 1


def test_another_key_is_another_version_and_aliases_move(
    connected: Registry, package: Path, other_package: Path
) -> None:
    assert connected.alias_version("champion") is None
    first = connected.register(submission(package))
    second = connected.register(submission(other_package, key="other"))
    connected.set_alias("champion", first.version)
    connected.set_alias("challenger", second.version)
    assert [version.aliases for version in connected.versions()] == [("champion",), ("challenger",)]
    connected.set_alias("champion", second.version)
    connected.delete_alias("challenger")
    connected.delete_alias("challenger")
    champion = connected.alias_version("champion")
    assert champion is not None
    assert (champion.version, champion.aliases) == ("2", ("champion",))
    assert connected.alias_version("challenger") is None
    assert lineage.read(connected.download(champion)) == lineage.read(other_package)


def test_only_the_promoting_workspace_moves_aliases(connected: Registry, package: Path) -> None:
    version = connected.register(submission(package))
    clone = ["git", "config", "--local", "lclsc.clone", "another"]
    subprocess.run(clone, cwd=connected.workspace.root, check=True)
    for move in (lambda: connected.set_alias("champion", "1"), lambda: connected.delete_alias("champion")):
        with pytest.raises(StageError, match="another workspace"):
            move()
    own = Path(registry.__file__).parents[2] / "params.yaml"
    params_file.write(connected.workspace.params, own, {"register": {"name": connected.name}})
    with pytest.raises(StageError, match="another workspace"):  # before it trains for hours
        register.start_run(connected.workspace, "n" * 64, "new data")
    assert connected.find_version("k" * 64) == version


def test_an_exchanged_package_is_not_handed_out(embedded: Registry, package: Path) -> None:
    version = embedded.register(submission(package))
    weights = next(embedded.workspace.tracking_artifacts.rglob("model.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x7f")
    with pytest.raises(StageError, match="registered with"):
        embedded.download(version)


def test_a_copy_that_was_damaged_here_is_fetched_again(embedded: Registry, package: Path) -> None:
    version = embedded.register(submission(package))
    folder = embedded.download(version)
    for lost in ("artifacts/model/model.safetensors", lineage.FILE):
        (folder / lost).write_bytes(b"")  # as after a power cut
        assert embedded.download(version) == folder
        assert lineage.verify_package(folder) == lineage.read(package)


def test_what_a_killed_download_left_goes_with_the_next_one(embedded: Registry, package: Path) -> None:
    version = embedded.register(submission(package))
    packages = embedded.workspace.state / "packages"
    (packages / ".tmp-killed" / "package").mkdir(parents=True)
    folder = embedded.download(version)
    assert [*packages.iterdir()] == [folder]


def test_only_complete_versions_count_as_built(
    tracked: Workspace, package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracked.params.write_bytes((Path(registry.__file__).parents[2] / "params.yaml").read_bytes())
    connected = registry.connect(tracked)
    assert registry.complete_version(tracked, "k" * 64) is None
    version = connected.register(submission(package))
    tracked.weights.parent.mkdir()
    tracked.weights.write_bytes((package / "artifacts" / "model" / "model.safetensors").read_bytes())
    assert registry.complete_version(tracked, "k" * 64) is None
    connected.complete(version.version)
    found = registry.complete_version(tracked, "k" * 64)
    assert found is not None
    assert (found["version"], found["aliases"], found["metrics"]["macro_f1"]) == ("1", [], 0.9)
    json.dumps(found)
    tracked.weights.write_bytes(b"trained on another platform")
    assert registry.complete_version(tracked, "k" * 64) is None


def test_a_glance_at_the_file_says_what_mlflow_says(embedded: Registry, package: Path) -> None:
    version = embedded.register(submission(package))
    embedded.complete(version.version)
    embedded.set_alias("champion", version.version)
    told = embedded.find_version("k" * 64)
    assert told is not None
    assert registry.Version(**database.glance(embedded.workspace, "lclsc", registry.KEY, "k" * 64) or {}) == told
    assert database.glance(embedded.workspace, "lclsc", registry.KEY, "other") is None
    assert database.glance(embedded.workspace, "other", registry.KEY, "k" * 64) is None
    embedded.delete_alias("champion")
    embedded.client.delete_model_version("lclsc", version.version)
    assert database.glance(embedded.workspace, "lclsc", registry.KEY, "k" * 64) is None
    embedded.workspace.tracking_database.write_bytes(b"no database")
    assert database.glance(embedded.workspace, "lclsc", registry.KEY, "k" * 64) is None


def test_asking_makes_no_database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert registry.complete_version(Workspace(tmp_path), "key") is None
    assert list(tmp_path.iterdir()) == []


def test_a_refusal_of_mlflow_says_what_was_asked(connected: Registry) -> None:
    with pytest.raises(OutsideSystemError, match="get_run"):
        connected.client.get_run("0" * 32)


LOAD = """
import sys
import mlflow
model = mlflow.pyfunc.load_model("models:/lclsc/1")
print(model.metadata.get_input_schema().input_names())
"""


def elsewhere(workspace: Workspace, folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """A process that knows the tracking database and no repository."""
    folder.mkdir()
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    environment["MLFLOW_TRACKING_URI"] = f"sqlite:///{workspace.tracking_database}"
    return subprocess.run([sys.executable, "-I", *command], cwd=folder, env=environment, capture_output=True, text=True)


@pytest.mark.parametrize("how", [["mv"], ["cp", "-a"]])
def test_a_moved_or_copied_workspace_keeps_its_models(
    embedded: Registry, package: Path, tmp_path: Path, how: list[str]
) -> None:
    version = embedded.register(submission(package))
    old = embedded.workspace.root
    subprocess.run([*how, old, tmp_path / "moved here"], check=True)
    moved = Workspace.open(tmp_path / "moved here")
    shutil.rmtree(old, ignore_errors=True)
    there = registry.connect(moved, "lclsc")
    assert there.versions() == [version]
    shutil.rmtree(moved.state)
    assert lineage.read(there.download(version)) == lineage.read(package)
    assert str(old) not in "\n".join(sqlite3.connect(moved.tracking_database).iterdump())
    assert registry.rebase(moved) is False
    done = elsewhere(moved, tmp_path / "empty", "-c", LOAD)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "['image', 'video']"


CONNECT = """
import sys
from pathlib import Path
from pipelines import registry
from pipelines.workspace import Workspace
print(registry.connect(Workspace(Path(sys.argv[1])), "lclsc").experiment_id())
"""


def test_the_start_of_a_run_leaves_a_database_alone_that_another_process_is_making(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    def make(uri: str, _: Path) -> None:
        Path(uri.removeprefix("sqlite:///")).touch()
        with locks.one_writer(workspace):
            pass

    monkeypatch.setattr(database, "_open_store", make)
    workspace.tracking_database.with_name("mlflow.db.draft").write_bytes(b"of a killed one")
    database.ensure_database(workspace)
    assert workspace.tracking_database.read_bytes() == b""
    assert versioning.git(workspace, "status", "--porcelain") == ""


@pytest.mark.slow
def test_three_processes_meet_a_missing_database(tmp_path: Path) -> None:
    root = tmp_path / "new"
    root.mkdir()
    source = Path(registry.__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": str(source)}
    environment.pop("MLFLOW_TRACKING_URI", None)
    started = [
        subprocess.Popen([sys.executable, "-c", CONNECT, root], cwd=tmp_path, env=environment, stdout=-1, stderr=-1)
        for _ in range(3)
    ]
    ends = [process.communicate(timeout=300) for process in started]
    assert [process.returncode for process in started] == [0, 0, 0], ends
    assert len({out for out, _ in ends}) == 1
    assert sorted(path.name for path in root.iterdir()) == [".state", "mlflow.db"]


def test_a_database_that_somebody_writes_to_is_neither_migrated_nor_taken_for_another(
    tracked: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "LOCK_SECONDS", 0.05)
    with contextlib.closing(sqlite3.connect(tracked.tracking_database)) as writer:
        writer.execute("BEGIN EXCLUSIVE")
        with pytest.raises(OutsideSystemError, match="locked") as told:
            registry.connect(tracked, "lclsc")
    assert told.value.transient
    assert not list(tracked.root.glob("mlflow.db.*"))
    registry.connect(tracked, "lclsc")


@pytest.mark.slow
def test_an_older_database_is_migrated_with_a_copy_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from alembic import command
    from alembic.script import ScriptDirectory
    from mlflow.store.db.utils import _get_alembic_config
    from mlflow.store.tracking.dbmodels.initial_models import Base
    from sqlalchemy import create_engine

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    workspace = Workspace(tmp_path)
    uri = f"sqlite:///{workspace.tracking_database}"
    engine = create_engine(uri)
    Base.metadata.create_all(engine)
    config = _get_alembic_config(uri)
    script = ScriptDirectory.from_config(config)
    older = script.get_revision(script.get_heads()[0]).down_revision
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, older)
    engine.dispose()
    registry.connect(workspace, "lclsc").experiment_id()
    (backup,) = tmp_path.glob("mlflow.db.*")
    found = [
        sqlite3.connect(path).execute("SELECT version_num FROM alembic_version").fetchone()[0]
        for path in (backup, workspace.tracking_database)
    ]
    assert found == [older, script.get_heads()[0]]
