"""Make a workspace: a git repository with DVC, its parameters, and nothing else yet."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path
from typing import Any, Literal

from pipelines import code_digest, manifest, params_file, settings, versioning
from pipelines.errors import OutsideSystemError, WrongUseError
from pipelines.files import temporary_name, write_json
from pipelines.workspace import FORMAT, Workspace, private_folder, refuse_source_tree, template_file

Preset = Literal["cpu", "gpu"]

GPU_PRESET: dict[str, dict[str, Any]] = {
    "extract": {"side_px": 224},
    "train": {
        "encoder": "resnet18",
        "batch_images": 64,
        "logical_shards": 8,
        "epochs": 40,
        "learning_rate": 0.001,
    },
}
"""What differs from the shipped parameters, which are the CPU preset."""


def run(root: Path, *, preset: Preset, remote: str | None) -> Workspace:
    """Build the workspace beside its place and rename it there: it is whole, or it is not."""
    root = root.absolute()
    refuse_source_tree(root)
    if root.exists() and any(root.iterdir()):
        raise WrongUseError("not_empty", f"{root} is not empty.", "Name a new or an empty folder.")
    draft = root.with_name(f"{temporary_name()}-{root.name}")
    try:
        _build(Workspace(draft), preset, remote)
        if root.exists():
            root.rmdir()
        draft.rename(root)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return Workspace.open(root)


def share(workspace: Workspace) -> None:
    """Let the remotes hold the empty folders, or the first look at them finds objects missing."""
    with contextlib.suppress(OutsideSystemError):  # one that is away is told by `lclsc doctor`
        versioning.push_inputs(workspace)


def _build(workspace: Workspace, preset: Preset, remote: str | None) -> None:
    workspace.root.mkdir(parents=True)
    settings.apply()
    for folder in (workspace.videos, workspace.masks):
        private_folder(folder)
    if remote is None:
        private_folder(workspace.remotes / "identified")
    # A relative folder is the caller's, not the workspace's; an address stays as it is.
    versioning.initialise(workspace, str(Path(remote).absolute()) if remote and "://" not in remote else remote)
    private_folder(workspace.root / ".dvc" / "cache")
    for name in ("dvc.yaml", "prefect.yaml"):
        shutil.copyfile(template_file(name), workspace.root / name)
    params_file.write(workspace.params, template_file("params.yaml"), GPU_PRESET if preset == "gpu" else {})
    manifest.write_videos(workspace.manifest, [])
    manifest.write_splits(workspace.splits, {})
    manifest.write_provenance(workspace.provenance, [])
    code_digest.refresh(workspace)
    write_json(workspace.marker, {"format": FORMAT, "key_id": None})
    versioning.track(workspace, "videos", remote="identified")
    versioning.track(workspace, "masks")
    versioning.commit(workspace, versioning.OWN_INPUTS, f"Start a workspace (preset {preset})")


def preset_for_this_machine() -> Preset:
    """``gpu`` only where a GPU is seen; asked of the driver's device files, not of torch, which is slow to load."""
    return "gpu" if any(Path("/dev").glob("nvidia[0-9]*")) else "cpu"
