"""A model that must not be promoted, in a real workspace: each is refused by the clause that is meant for it."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import gate_cases
import pandas as pd
import pytest
from e2e.line import Line
from faults import mutations

from pipelines import frames, gate, manifest, params, registry
from pipelines.files import write_json
from pipelines.gate import contestant
from pipelines.workspace import Workspace

pytestmark = pytest.mark.slow


@pytest.fixture
def line(built: Line, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Line:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return built.copy(tmp_path / "workspace")


def refusing(line: Line) -> dict[str, str]:
    """Clauses that refuse version 1, with what they say."""
    workspace = Workspace.open(line.root)
    store = registry.connect(workspace)
    version = store.version("1")
    assert version is not None
    found = gate.judge(workspace, params.load(workspace.params), store, version)
    assert found["verdict"] == ("refused" if any(one["verdict"] == "refused" for one in found["clauses"]) else "passed")
    return {one["name"]: one["note"] for one in found["clauses"] if one["verdict"] == "refused"}


def commit(line: Line, *files: str) -> None:
    line.tool("git", "-c", "user.name=x", "-c", "user.email=x@y.example", "commit", "--quiet", "-m", "x", *files)


def test_as_it_was_built_it_passes(line: Line) -> None:
    assert refusing(line) == {}


def test_wrong_weights_are_refused_by_the_clause_on_weights(line: Line) -> None:
    (victim,) = line.root.glob("mlartifacts/models/*/artifacts/artifacts/model/model.safetensors")
    content = bytearray(victim.read_bytes())
    content[-5] ^= 0xFF
    mutations.replace(victim, bytes(content))
    assert "weights" in refusing(line)
    shutil.rmtree(line.root / ".state" / "packages")  # nor does a machine that has no copy yet run them
    assert {"weights", "loads"} <= refusing(line).keys()


@pytest.mark.parametrize("copy", ["reports/evaluate.json", "mlartifacts/*/artifacts/evaluate.json"])
def test_an_edited_metrics_file_is_refused_by_the_clause_on_recorded_figures(line: Line, copy: str) -> None:
    (path,) = line.root.glob(copy)
    report = json.loads(path.read_bytes())
    report["metrics"]["macro_f1"] = 0.99
    mutations.replace(path, json.dumps(report).encode())
    assert list(refusing(line)) == ["recorded_figures"]


def test_a_missing_metric_is_refused_although_everything_else_is_consistent(line: Line) -> None:
    path = line.root / "reports" / "evaluate.json"
    report = json.loads(path.read_bytes())
    report["metrics"]["ece"] = None
    mutations.replace(path, json.dumps(report).encode())
    line.tool("dvc", "commit", "--force", "--quiet", "evaluate")
    commit(line, "dvc.lock")
    told = refusing(line)
    assert "ece has no value" in told["figures_complete"]


def test_a_model_trained_on_a_test_patient_is_refused_by_the_clause_on_unseen_patients(line: Line) -> None:
    workspace = Workspace.open(line.root)
    train, test = frames.read_table(workspace.train_table), frames.read_table(workspace.test_table)
    seen = train[train.split == "train"].head(1).assign(split="test")
    pd.concat([test, seen]).sort_values("video_id").to_csv(workspace.test_table, index=False)
    splits = workspace.splits.read_text()
    patient = seen.patient_id.iloc[0]
    workspace.splits.write_text(splits.replace(f"{patient},train", f"{patient},test"))
    commit(line, "splits.csv")
    assert "unseen_patients" in refusing(line)


def test_an_over_confident_model_is_refused_by_the_clause_on_calibration(line: Line, tmp_path: Path) -> None:
    """The same weights at a twentieth of their temperature: as right as before, and sure of it."""
    workspace = Workspace.open(line.root)
    test = frames.read_table(workspace.test_table)
    (honest,) = line.root.glob("mlartifacts/models/*/artifacts")
    shutil.copytree(honest, tmp_path / "sure")
    path = tmp_path / "sure" / "artifacts" / "model" / "model.json"
    card = json.loads(path.read_bytes())
    write_json(path, card | {"temperature": card["temperature"] / 20})
    files = workspace.video_files()
    videos = {video_id: files[video_id] for video_id in test.video_id}
    known = {video.video_id: video for video in manifest.read_videos(workspace.manifest)}
    shown = {
        name: contestant(name, package, videos, tmp_path / "scores")
        for name, package in (("honest", honest), ("sure", tmp_path / "sure"))
    }
    policy = gate_cases.policy(min_patients=3)
    errors = {name: gate.figures(one, test, policy)["metrics"]["ece"] for name, one in shown.items()}
    assert errors["sure"] > errors["honest"] + 0.05, errors
    # How well six epochs go differs from one kind of processor to the next, so the limit lies between what was found.
    policy = gate_cases.policy(min_patients=3, max_ece=(errors["honest"] + errors["sure"]) / 2)
    calibrated = {}
    for name, one in shown.items():
        proof = dataclasses.replace(gate_cases.evidence(test, one), videos=known)
        result = gate.decide(policy, challenger=one, champion=None, test=test, evidence=proof)
        calibrated[name] = next(clause for clause in result.clauses if clause.name == "calibration").verdict
    assert calibrated == {"honest": "passed", "sure": "refused"}
