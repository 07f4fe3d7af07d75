"""prefect.yaml is what is registered: for `lclsc serve --flows` here, for work pools by Prefect's own CLI."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from flows import deployments
from pipelines import versioning
from pipelines.errors import WrongUseError
from pipelines.workspace import Workspace, template_file

ROOT = Path(__file__).parents[2]


def test_a_new_workspace_has_the_shipped_deployments_committed(workspace: Workspace) -> None:
    own = workspace.root / "prefect.yaml"
    assert own.read_text() == template_file("prefect.yaml").read_text()
    assert versioning.changed_files(workspace, ["prefect.yaml"]) == []
    own.unlink()
    assert [entry["name"] for entry in deployments.read(workspace)][:3] == ["intake", "retrain", "audit"]


def test_every_deployment_says_when_how_and_for_which_workspace(workspace: Workspace, tmp_path: Path) -> None:
    built = {one.name: one for one in deployments.build(workspace, tmp_path / "drop")}
    for one in built.values():
        assert one.full_name == f"{one.name}/{one.name}"
        assert one.entrypoint == f"flows.{one.name}.{one.name}"
        assert (one.concurrency_limit, one.tags) == (1, ["lclsc"])
        assert one.description
        assert one.parameters["workspace"] == str(workspace.root)
        for entry in one.schedules or []:
            assert entry.schedule.timezone == "UTC"
            assert entry.slug in (one.name, "monitor-intake")
    assert built["intake"].parameters["drop"] == str(tmp_path / "drop")
    assert built["retrain"].parameters["hand_edits"] == "refuse"
    strategies = {name: one.concurrency_options.collision_strategy for name, one in built.items()}
    assert (strategies["intake"], strategies["retrain"]) == ("CANCEL_NEW", "ENQUEUE")
    looks = {entry.slug: entry.parameters for entry in built["monitor"].schedules or []}
    assert looks == {"monitor": {}, "monitor-intake": {"source": "intake"}}


def test_without_a_drop_folder_intake_waits_to_be_asked(workspace: Workspace) -> None:
    intake, retrain = deployments.build(workspace, None)[:2]
    assert intake.schedules == []
    assert [entry.schedule.cron for entry in retrain.schedules or []] == ["0 2 * * *"]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("0 2 * * *", "every night"),
        ("timezone: UTC", "timezone: Mars/Base"),
        ("deployments:", "flows:"),
        ("name:", "\t"),
    ],
)
def test_a_wrong_entry_is_told_before_anything_starts(workspace: Workspace, old: str, new: str) -> None:
    path = workspace.root / "prefect.yaml"
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(WrongUseError, match=r"prefect\.yaml"):
        deployments.build(workspace, None)


def test_the_flow_of_a_retrain_loads_without_torch_ray_or_mlflow() -> None:
    """A run with nothing to do pays for Prefect and for one status check."""
    code = (
        "import json, sys, flows.retrain, flows.intake\n"
        "print(json.dumps(sorted({'torch', 'ray', 'mlflow', 'dvc', 'sklearn', 'pyarrow'} & set(sys.modules))))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, text=True, capture_output=True, check=True)
    assert json.loads(done.stdout) == []


def test_an_edit_in_progress_is_seen_and_the_labels_that_intake_writes_are_none(workspace: Workspace) -> None:
    text = workspace.params.read_text()
    workspace.params.write_text(text.replace("labels: []", "labels: [glioma]") + "# a remark\n")
    assert versioning.open_edits(workspace) == []
    workspace.params.write_text(text.replace("epochs: 24", "epochs: 3"))
    assert versioning.open_edits(workspace) == ["params.yaml"]
    versioning.commit(workspace, ["params.yaml"], "three epochs")
    assert versioning.open_edits(workspace) == []
