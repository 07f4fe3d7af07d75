"""A model that must not be promoted, in a real workspace: each is refused by the clause that is meant for it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from e2e.line import Line
from faults import mutations
from safetensors.torch import load_file, save_file

from pipelines import evaluate, frames, gate, params, register, registry, versioning
from pipelines.files import read_json, sha256_file, write_json
from pipelines.params import Params, PromoteParams
from pipelines.workspace import Workspace

pytestmark = pytest.mark.slow
SURE = 0.001
"""Softmax temperature at which nearly every answer is certain."""


@pytest.fixture
def line(built: Line, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Line:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return built.copy(tmp_path / "workspace")


@dataclass(frozen=True)
class Pair:
    """A champion that has one word for everything, and a challenger that never says that word and is always sure."""

    line: Line
    word: str
    champion: str
    challenger: str


@pytest.fixture(scope="module")
def pair(built: Line, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    line = built.copy(tmp_path_factory.mktemp("pair") / "workspace")
    found = read_json(line.root / "reports" / "evaluate.json")["per_class"]
    word = min(found, key=lambda name: found[name]["f1"])
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        line.set_params(promote={"approval": "auto"})
        champion = registered(line, says={word}, seed=1)
        line.set_params(promote={"approval": "manual"})
        yield Pair(line, word, champion, registered(line, says=found.keys() - {word}, seed=2))


def registered(line: Line, *, says: Set[str], seed: int) -> str:
    """The next version, as a retrain leaves it, but for its training: the built model, blind to all other classes."""
    workspace = Workspace.open(line.root)
    line.set_params(train={"calibration": "none", "temperature": SURE, "seed": seed})
    card, weights = read_json(workspace.model_card), load_file(workspace.weights)
    weights["global_embeddings.seen"] = torch.tensor([name in says for name in card["classes"]])
    save_file(weights, workspace.weights)
    write_json(workspace.model_card, card | {"temperature": SURE})
    report = read_json(workspace.stage_report("train"))
    write_json(workspace.stage_report("train"), report | {"weights_sha256": sha256_file(workspace.weights)})
    settings = params.load(workspace.params)
    write_json(workspace.stage_report("evaluate"), evaluated(workspace, settings))
    line.tool("dvc", "commit", "--force", "--quiet", "train", "evaluate")
    versioning.commit(workspace, ("params.yaml", "dvc.lock"), "Build")
    return str(register.run(workspace, settings, commit=versioning.head(workspace), durations={})["version"])


def evaluated(workspace: Workspace, settings: Params) -> dict[str, Any]:
    """The stage's work, in this process: three videos need no cluster."""
    evaluate._classifier.cache_clear()  # a stage never sees two models
    table = frames.read_table(workspace.test_table)
    scored = [evaluate.score_video(one) for one in evaluate.to_score(workspace, table, settings.evaluate)]
    return evaluate.conclude(workspace, table, scored, settings.evaluate)


def judged(line: Line, number: str, **rules: Any) -> dict[str, Any]:
    """What the gate says of a version under the workspace's policy with other ``rules``."""
    workspace = Workspace.open(line.root)
    store = registry.connect(workspace)
    version = store.version(number)
    assert version is not None
    settings = params.load(workspace.params)
    policy = settings.promote.model_dump()
    for name, value in rules.items():
        policy[name] = policy[name] | value if isinstance(value, dict) else value
    settings = settings.model_copy(update={"promote": PromoteParams.model_validate(policy)})
    found = gate.judge(workspace, settings, store, version)
    assert (found["verdict"] == "refused") == bool(refusals(found))
    return found


def refusals(found: dict[str, Any]) -> dict[str, str]:
    """Clauses that refuse, with what they say."""
    return {one["name"]: one["note"] for one in found["clauses"] if one["verdict"] == "refused"}


def refusing(line: Line) -> dict[str, str]:
    return refusals(judged(line, "1"))


def commit(line: Line, *files: str) -> None:
    line.tool("git", "-c", "user.name=x", "-c", "user.email=x@y.example", "commit", "--quiet", "-m", "x", *files)


def test_as_it_was_built_it_passes(line: Line) -> None:
    assert judged(line, "1")["verdict"] == "passed"


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


def test_better_on_the_whole_but_worse_in_one_class_is_refused_by_the_clause_on_subgroups_alone(pair: Pair) -> None:
    assert judged(pair.line, pair.challenger)["verdict"] == "passed", "without that clause"
    found = judged(pair.line, pair.challenger, subgroups={"max_loss": 0.2})
    assert found["champion"]["version"] == pair.champion
    assert found["challenger"]["metrics"]["macro_f1"] > found["champion"]["metrics"]["macro_f1"]
    assert refusals(found).keys() == {"subgroup_loss"}
    assert f"class {pair.word}" in refusals(found)["subgroup_loss"].lower()


def test_an_over_confident_model_is_refused_by_the_clause_on_calibration_alone(pair: Pair) -> None:
    """It never names a third of the frames right and is sure each time, so this holds whatever it has learnt."""
    found = judged(pair.line, pair.challenger, max_ece=0.2)
    assert refusals(found).keys() == {"calibration"}
    assert found["challenger"]["metrics"]["ece"] > 0.2


def test_versions_that_differ_by_their_seed_alone_count_as_trainings_of_one_kind(pair: Pair) -> None:
    """The first version had another temperature, so there are two."""
    for asked, verdict in ((2, "passed"), (3, "undecided")):
        clauses = judged(pair.line, pair.challenger, min_seeds=asked)["clauses"]
        found = next(one for one in clauses if one["name"] == "seeds")
        assert (found["verdict"], found["value"]) == (verdict, 2.0), found
