"""Where everything of one workspace lies. Paths only: who writes them stands in the modules that do."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.errors import WrongUseError
from pipelines.files import read_json

FORMAT = 1


class _At:
    """A path inside the workspace."""

    def __init__(self, *parts: str) -> None:
        self.parts = parts

    def __get__(self, workspace: Workspace, owner: type[Workspace]) -> Path:
        return workspace.root.joinpath(*self.parts)


@dataclass(frozen=True)
class Workspace:
    """A git repository with DVC that turns videos and parameters into registered models."""

    root: Path

    @classmethod
    def open(cls, root: Path) -> Workspace:
        """The workspace at ``root``; WrongUseError where there is none or its format is another."""
        root = root.resolve()
        refuse_source_tree(root)
        marker = root / "workspace.json"
        if not marker.is_file():
            raise WrongUseError(
                "no_workspace",
                f"{root} is not a workspace: it has no workspace.json.",
                "Run `lclsc init DIR` to make one, or name one with --workspace.",
            )
        found = read_json(marker).get("format")
        if found != FORMAT:
            raise WrongUseError(
                "workspace_format",
                f"This workspace has format {found}; this version reads format {FORMAT}.",
                "Use the version of lclsc that wrote it, or upgrade lclsc.",
            )
        return cls(root)

    # what git holds
    marker = _At("workspace.json")
    manifest = _At("manifest.csv")
    splits = _At("splits.csv")
    provenance = _At("provenance.csv")
    params = _At("params.yaml")
    dvc_yaml = _At("dvc.yaml")
    dvc_lock = _At("dvc.lock")
    code = _At("code.json")
    ledger = _At("ledger.jsonl")

    # what DVC holds
    videos = _At("videos")
    masks = _At("masks")
    frames = _At("data", "frames")
    mask_frames = _At("data", "masks")
    train_table = _At("data", "train.csv")
    test_table = _At("data", "test.csv")
    weights = _At("models", "model.safetensors")
    model_card = _At("models", "model.json")
    predictions = _At("reports", "predictions.parquet")

    # what neither holds
    reports = _At("reports")
    report_page = _At("reports", "report.html")
    gate_report = _At("reports", "gate.json")
    confusion_picture = _At("reports", "confusion_matrix.svg")
    saliency_picture = _At("reports", "saliency_sheet.png")
    quarantine = _At("quarantine")
    remotes = _At("remotes")
    tracking_database = _At("mlflow.db")
    tracking_artifacts = _At("mlartifacts")
    state = _At(".state")
    served = _At(".state", "serving")
    training_record = _At(".state", "training.json")

    def stage_report(self, stage: str) -> Path:
        return self.root / "reports" / f"{stage}.json"

    def stage_error(self, stage: str) -> Path:
        return self.root / ".state" / f"{stage}.error.json"

    def video_files(self) -> dict[str, Path]:
        """video_id -> file (or folder of frames), sorted by id."""
        found = (path for path in self.videos.iterdir() if not path.name.startswith("."))
        return {path.name.split(".")[0]: path for path in sorted(found)}

    def settings(self) -> dict[str, Any]:
        """workspace.json: format, key id of the pseudonyms, workspace id."""
        return dict(read_json(self.marker))


def refuse_source_tree(root: Path) -> None:
    """The project's own checkout is the template of workspaces, never one itself."""
    source = Path(__file__).resolve().parent.parent
    if root == source or (root / "lclsc" / "__init__.py").exists():
        raise WrongUseError(
            "source_tree",
            f"{root} is the source tree of lclsc, not a workspace.",
            "Run `lclsc init DIR` and work in DIR, or pass --workspace DIR.",
        )


def template_file(name: str) -> Path:
    """dvc.yaml or params.yaml as shipped: inside the installed package, or at the root of a checkout."""
    here = Path(__file__).resolve().parent
    installed = here / "template" / name
    return installed if installed.exists() else here.parent / name


def private_folder(path: Path) -> Path:
    """Make ``path`` readable by its owner alone: identified material and run state live there."""
    path.mkdir(parents=True, exist_ok=True)
    if path.stat().st_mode & 0o077:
        path.chmod(0o700)
    return path
