"""A registry with two versions of the shipped architecture, one of them champion. Their weights are drawn, not trained:
what serving costs, and whether an answer is this version's or that one's, does not depend on what they learned."""

import base64
import io
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file

from pipelines import lineage, package, params, registry, settings
from pipelines.files import sha256_file, write_json
from pipelines.inference import build_model
from pipelines.registry import Registry, Submission
from pipelines.workspace import Workspace, template_file

CLASSES = ("glioma", "healthy", "meningioma", "metastasis")
VIDEOS = {"train": ["a" * 64], "validation": ["b" * 64]}


def build(root: Path) -> Registry:
    """In a new folder; version 1 is champion."""
    root.mkdir(parents=True)
    write_json(root / "workspace.json", {"format": 1, "key_id": None})
    shutil.copyfile(template_file("params.yaml"), root / "params.yaml")
    subprocess.run(["git", "init", "--quiet", str(root)], check=True)
    workspace = Workspace.open(root)
    settings.apply(workspace)
    store = registry.connect(workspace)
    for seed in (1, 2):
        _register(store, root.parent / f"model-{seed}", seed)
    store.set_alias("champion", "1")
    return store


def address(store: Registry) -> dict[str, str]:
    """What a client of MLflow needs in its environment to find the registry, and to be left in peace."""
    return settings.OFFLINE | settings.SAFE | {"MLFLOW_TRACKING_URI": store.uri}


def picture(seed: int, side_px: int = 160) -> str:
    """Smooth noise in a disc, as `image`: PNG in base64."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(20, 220, (side_px // 8, side_px // 8)).astype(np.uint8).repeat(8, 0).repeat(8, 1)
    inside = np.hypot(*(np.mgrid[:side_px, :side_px] - side_px / 2 + 0.5)) < side_px / 2
    target = io.BytesIO()
    Image.fromarray(coarse * inside).save(target, "PNG")
    return base64.b64encode(target.getvalue()).decode()


def _register(store: Registry, folder: Path, seed: int) -> None:
    model = Workspace(folder)
    _write_model(model, seed)
    requirements = package.serving_requirements(template_file("requirements.lock"))
    sealed = package.build_package(model, folder / "package", requirements=requirements, videos=VIDEOS)
    lineage.write(sealed, lineage.build(**_record(model, sealed, seed)))
    store.register(Submission(key=str(seed) * 64, train_key="t" * 64, data_version="0" * 12, package=sealed))


def _write_model(model: Workspace, seed: int) -> None:
    shipped = params.load(template_file("params.yaml"))
    train = shipped.train
    card = {
        "format": "model/1",
        "classes": list(CLASSES),
        "encoder": train.encoder,
        "embedding_dim": train.embedding_dim,
        "momentum": train.momentum,
        "temperature": train.temperature,
        "reject": {"score": train.reject_score, "margin": train.reject_margin},
        "extract": shipped.extract.model_dump(),
        "recipe": "0" * 12,
    }
    torch.manual_seed(seed)
    network = build_model(card)
    bank = network.global_embeddings
    bank.vectors.copy_(torch.nn.functional.normalize(torch.randn_like(bank.vectors), dim=1))
    bank.seen.fill_(True)
    model.weights.parent.mkdir(parents=True)
    save_file(network.state_dict(), model.weights)
    write_json(model.model_card, card)


def _record(model: Workspace, sealed: Path, seed: int) -> dict[str, Any]:
    environment = {
        "lock_sha256": "0" * 64,
        "python": "3.11.0",
        "platform": "drawn",
        "cpu": "",
        "gpu": None,
        "threads": 1,
    }
    return {
        "git_commit": "0" * 40,
        "dvc_lock": {"schema": "2.0", "stages": {}},
        "manifest_sha256": "0" * 64,
        "splits_sha256": "0" * 64,
        "video_ids": VIDEOS | {"test": []},
        "params": {},
        "environment": environment,
        "seeds": {"train": seed},
        "logical_shards": 1,
        "restarts": 0,
        "weights_sha256": sha256_file(model.weights),
        "package_sha256": lineage.tree_digest(sealed),
        "source_tar_sha256": sha256_file(sealed / "source.tar"),
        "metrics": {},
        "previous_sha256": None,
    }
