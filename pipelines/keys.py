"""Digests that name work: same inputs, same key, whoever runs it, wherever, on how many workers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipelines import params as parameters
from pipelines import versioning
from pipelines.files import digest, read_json, sha256_file
from pipelines.workspace import Workspace

STAGES = ("extract", "train", "evaluate")


def train_key(workspace: Workspace, *, workers: int) -> str:
    """Digest of the train stage's inputs. The number of workers joins it only where it can change bytes."""
    return train_key_of(
        train_table=sha256_file(workspace.train_table),
        params=parameters.section(workspace.params, "train"),
        code=read_json(workspace.code),
        workers=workers,
    )


def train_key_of(*, train_table: str, params: Mapping[str, Any], code: Mapping[str, Any], workers: int) -> str:
    """From the table's SHA-256, the section ``train`` and code.json."""
    inputs: dict[str, Any] = {"train_table": train_table, "params": params, "code": code["train"]}
    if params["reduction"] == "ddp":
        inputs["workers"] = workers
    return digest(inputs)


def retrain_key(workspace: Workspace) -> str:
    """Digest of the inputs of extract, train and evaluate; known before any of them runs."""
    sections = (*STAGES, "split")
    return retrain_key_of(
        videos=versioning.pointer_md5(workspace, "videos"),
        masks=versioning.pointer_md5(workspace, "masks"),
        manifest=sha256_file(workspace.manifest),
        splits=sha256_file(workspace.splits),
        params={name: parameters.section(workspace.params, name) for name in sections},
        code=read_json(workspace.code),
    )


def retrain_key_of(
    *, videos: str, masks: str, manifest: str, splits: str, params: Mapping[str, Any], code: Mapping[str, Any]
) -> str:
    """From the folders' DVC names, the tables' SHA-256, sections of params.yaml and code.json."""
    shaping = {stage: params[stage] for stage in STAGES} | {"split.min_patients": params["split"]["min_patients"]}
    inputs = {"videos": videos, "masks": masks, "manifest": manifest, "splits": splits}
    return digest(inputs | {"params": shaping, "code": code})
