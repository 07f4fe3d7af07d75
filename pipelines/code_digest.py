"""code.json: what code, in which versions, can change each stage's numbers.

A stage's digest covers the source of its import closure inside this project, and the versions of the
packages behind its results. A changed docstring in a report page makes nothing stale.
"""

from __future__ import annotations

import importlib.metadata
import platform
import re
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import grimp

from pipelines import params as parameters
from pipelines.errors import StageError
from pipelines.files import digest, read_json, sha256_file, write_json
from pipelines.workspace import Workspace

STAGE_PACKAGES = {
    "extract": ("av", "numpy", "pillow", "pyarrow", "scipy", "tifffile"),
    "train": ("monai", "numpy", "pandas", "pyarrow", "ray", "safetensors", "torch"),
    "evaluate": ("monai", "numpy", "pandas", "pyarrow", "safetensors", "scikit-learn", "torch"),
}

WITHOUT_EFFECT = {
    f"pipelines.{name}"
    for name in (
        "cluster",
        "code_digest",
        "dead_locks",
        "errors",
        "keys",
        "locks",
        "params",  # values are tracked by DVC itself, key by key
        "progress",
        "redaction",
        "settings",
        "stage",
        "versioning",
        "video.isolation",
        "workers",
        "workspace",
    )
}
"""Where and how work runs, never what comes out of it: an upgrade of these makes nothing stale."""


def current(encoder: str = "") -> dict[str, Any]:
    """code.json as it should read for the installed code, under ``train.encoder``."""
    return {stage: _stage_entry(stage, encoder.startswith("timm:")) for stage in STAGE_PACKAGES}


def refresh(workspace: Workspace) -> bool:
    """Rewrite code.json; True when it changed."""
    wanted = current(_encoder(workspace))
    if workspace.code.exists() and read_json(workspace.code) == wanted:
        return False
    write_json(workspace.code, wanted)
    return True


def changed_stages(workspace: Workspace) -> list[str]:
    """Stages whose installed code is not the one that code.json describes."""
    if not workspace.code.exists():
        return []
    recorded = read_json(workspace.code)
    return [stage for stage, entry in current(_encoder(workspace)).items() if recorded.get(stage) != entry]


def stage_digest(workspace: Workspace, stage: str) -> str:
    """One hash over a stage's code entry, as recorded in code.json."""
    return digest(read_json(workspace.code)[stage])


def require_current(workspace: Workspace, stage: str) -> None:
    """A result must not be recorded under the digest of other code."""
    recorded = read_json(workspace.code).get(stage) if workspace.code.exists() else None
    if recorded != current(_encoder(workspace))[stage]:
        raise StageError(
            "code_changed",
            f"code.json describes other code for the stage {stage} than the installed one.",
            "Run `lclsc retrain`, which rewrites and commits it, or `lclsc status --refresh-code` before `dvc repro`.",
        )


def closure(stage: str) -> list[str]:
    """The stage's module and every module of this project it imports, directly or not; sorted."""
    module = f"pipelines.{stage}"
    return sorted(({module} | _graph().find_upstream_modules(module)) - WITHOUT_EFFECT)


@cache
def _graph() -> grimp.ImportGraph:
    return grimp.build_graph("pipelines", "lclsc", cache_dir=None)


def _encoder(workspace: Workspace) -> str:
    return str(parameters.section(workspace.params, "train")["encoder"]) if workspace.params.exists() else ""


@cache
def _stage_entry(stage: str, with_timm: bool) -> dict[str, Any]:
    """timm counts where its network is the encoder; where it is not installed, building the network says so."""
    sources = {name: sha256_file(_source(name)) for name in closure(stage)}
    python = ".".join(platform.python_version_tuple()[:2])
    packages = {name: _public_version(name) for name in STAGE_PACKAGES[stage]}
    if with_timm and stage != "extract" and find_spec("timm") is not None:
        packages["timm"] = _public_version("timm")
    return {"sources": digest(sources), "packages": packages, "python": python}


def _source(module: str) -> Path:
    """Found by its name, not imported: importing lclsc would load torch."""
    path = Path(__file__).parent.parent.joinpath(*module.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def _public_version(package: str) -> str:
    """Without the local build tag: the same release has one name on CPU and GPU machines."""
    return re.sub(r"\+.*", "", importlib.metadata.version(package))
