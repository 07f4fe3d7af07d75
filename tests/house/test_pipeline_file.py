"""dvc.yaml against the code: a stage is the same noun everywhere, and what it reads is declared."""

from __future__ import annotations

import importlib
from typing import Any

import pytest
import yaml

from flows import planning
from pipelines import code_digest, params
from pipelines.files import read_json, write_json
from pipelines.workspace import Workspace, template_file

STAGES: dict[str, dict[str, Any]] = yaml.safe_load(template_file("dvc.yaml").read_text())["stages"]


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_is_a_module_a_section_and_a_report(stage: str) -> None:
    module = importlib.import_module(f"pipelines.{stage}")
    assert callable(module.run)
    assert STAGES[stage]["cmd"] == f"python -m pipelines.{stage}"
    assert stage in params.Params.model_fields
    assert f"reports/{stage}.json" in _paths(STAGES[stage]["outs"])


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_depends_on_its_own_code_digest(stage: str) -> None:
    assert {"code.json": [stage]} in STAGES[stage]["params"]
    assert stage in code_digest.STAGE_PACKAGES


def test_training_cannot_see_test_data() -> None:
    assert STAGES["train"]["deps"] == ["data/train.csv"]


def test_every_output_has_a_name_in_the_workspace(tmp_path: Any) -> None:
    workspace = Workspace(tmp_path)
    known = {workspace.stage_report(stage) for stage in STAGES} | {
        getattr(workspace, name)
        for name in dir(workspace)
        if not name.startswith("_")
        if name not in ("settings", "video_files", "stage_report", "stage_error", "open", "root")
    }
    for stage in STAGES.values():
        assert {tmp_path / path for path in _paths(stage["outs"])} <= known


def test_only_what_is_incremental_outlives_a_run() -> None:
    kept = [path for stage in STAGES.values() for out in stage["outs"] if isinstance(out, dict) for path in out]
    assert kept == ["data/frames", "data/masks"]


def test_extraction_needs_nothing_of_the_method() -> None:
    assert not [name for name in code_digest.closure("extract") if name.startswith("lclsc")]


def test_a_change_of_the_report_page_makes_no_stage_stale() -> None:
    for stage in STAGES:
        closure = code_digest.closure(stage)
        assert not [name for name in closure if name.startswith(("pipelines.report", "pipelines.registry", "flows"))]


def _paths(outs: list[Any]) -> list[str]:
    return [next(iter(out)) if isinstance(out, dict) else out for out in outs]


def test_a_stage_whose_code_was_exchanged_is_stale_before_anybody_writes_that_down(workspace: Workspace) -> None:
    code_digest.refresh(workspace)
    assert code_digest.changed_stages(workspace) == []
    known = read_json(workspace.code)
    write_json(workspace.code, known | {"train": known["train"] | {"sha256": "0" * 64}})
    assert code_digest.changed_stages(workspace) == ["train"]
    assert "train" in planning.make(workspace).stale
