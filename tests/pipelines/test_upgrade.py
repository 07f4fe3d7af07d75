"""A workspace whose params.yaml was written by the first version goes on with this one."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml

from pipelines import params, upgrade, versioning
from pipelines.errors import ParameterError
from pipelines.workspace import Workspace, template_file

FIRST = Path(__file__).with_name("params_of_the_first_version.yaml")
"""As commit 481a4d0 shipped it."""


@pytest.fixture
def old(workspace: Workspace) -> Workspace:
    text = FIRST.read_text().replace("labels: []", "labels: [glioma, 'no tumour']  # ours")
    workspace.params.write_text(text.replace("epochs: 12", "epochs: 7   # seven are enough here") + "# last words\n")
    (workspace.root / "prefect.yaml").unlink()
    workspace.dvc_yaml.write_text(workspace.dvc_yaml.read_text().replace("  - split.min_patients\n", ""))
    (workspace.root / ".gitignore").write_text("/videos/\n/own/\n")
    versioning.commit(workspace, ["params.yaml", "dvc.yaml", ".gitignore"], "as it was")
    return workspace


def test_an_old_workspace_is_refused_with_the_command_that_mends_it(old: Workspace) -> None:
    with pytest.raises(ParameterError, match=r"intake\.max_pixels is missing.*lclsc init DIR --upgrade"):
        params.load(old.params)


def test_an_upgrade_adds_what_is_missing_and_keeps_values_and_comments(old: Workspace) -> None:
    changes = upgrade.run(old)
    loaded = params.load(old.params)
    assert (loaded.train.epochs, loaded.extract.max_smear) == (7, 6.0)
    assert loaded.intake.labels == ["glioma", "no tumour"]
    text = old.params.read_text()
    for kept in ("# ours", "# seven are enough here", "# last words", "'no tumour'", "# two views of each"):
        assert kept in text
    assert "# of a frame: 4096 x 4096" in text  # and the comment of a key that came
    shipped = yaml.safe_load(template_file("params.yaml").read_text())
    own = yaml.safe_load(text)
    assert {section: list(keys) for section, keys in own.items()} == {
        section: list(keys) for section, keys in shipped.items()
    }
    assert own["train"]["precision"] == shipped["train"]["precision"]
    assert {change.file for change in changes} == {"params.yaml", "dvc.yaml", "prefect.yaml", ".gitignore"}


def test_an_upgrade_is_left_to_a_person_to_commit_and_does_nothing_twice(old: Workspace) -> None:
    assert upgrade.run(old)
    assert versioning.open_edits(old) == ["params.yaml", "dvc.yaml"]
    assert upgrade.run(old) == []
    ignored = (old.root / ".gitignore").read_text().splitlines()
    assert "/own/" in ignored
    assert len(ignored) == len(set(ignored))


def test_a_key_that_nobody_reads_any_more_goes_and_is_named(workspace: Workspace) -> None:
    workspace.params.write_text(
        workspace.params.read_text().replace("  seed: 0\n  encoder", "  sedd: 3\n  seed: 0\n  encoder")
    )
    (change,) = upgrade.run(workspace)
    assert change.what == "train.sedd is no longer used: removed (was 3)"
    assert params.load(workspace.params).train.seed == 0


def test_a_new_workspace_needs_no_upgrade(workspace: Workspace) -> None:
    before = shutil.copy(workspace.params, workspace.root.parent / "before.yaml")
    assert upgrade.run(workspace) == []
    assert workspace.params.read_bytes() == Path(before).read_bytes()
