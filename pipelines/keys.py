"""Digests that name work: same inputs, same key, whoever runs it, wherever, on how many workers."""

from __future__ import annotations

from typing import Any

from pipelines import params as parameters
from pipelines import versioning
from pipelines.files import digest, read_json, sha256_file
from pipelines.workspace import Workspace


def train_key(workspace: Workspace, *, workers: int) -> str:
    """Digest of the train stage's inputs. The number of workers joins it only where it can change bytes."""
    section = parameters.section(workspace.params, "train")
    inputs: dict[str, Any] = {
        "train_table": sha256_file(workspace.train_table),
        "params": section,
        "code": read_json(workspace.code)["train"],
    }
    if section["reduction"] == "ddp":
        inputs["workers"] = workers
    return digest(inputs)


def retrain_key(workspace: Workspace) -> str:
    """Digest of the inputs of extract, train and evaluate; known before any of them runs."""
    params: dict[str, Any] = {
        stage: parameters.section(workspace.params, stage) for stage in ("extract", "train", "evaluate")
    }
    params["split.min_patients"] = parameters.section(workspace.params, "split")["min_patients"]
    return digest(
        {
            "videos": versioning.pointer_md5(workspace, "videos"),
            "masks": versioning.pointer_md5(workspace, "masks"),
            "manifest": sha256_file(workspace.manifest),
            "splits": sha256_file(workspace.splits),
            "params": params,
            "code": read_json(workspace.code),
        }
    )
