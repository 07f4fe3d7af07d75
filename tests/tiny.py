"""A tiny real model and its sealed package: real code, no meaning. What tests of packages and registry start from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipelines import lineage
from pipelines.files import sha256_file, write_json
from pipelines.workspace import Workspace

REQUIREMENTS = ["mlflow==3.17.2", "numpy==2.4.6", "torch==2.13.0"]
SIDE_PX = 32
ENVIRONMENT: dict[str, Any] = {
    "lock_sha256": "3" * 64,
    "python": "3.11.9",
    "platform": "Linux-x86_64",
    "cpu": "AVX2",
    "gpu": None,
    "threads": 4,
}
"""Of a lineage record."""


def write_model(folder: Path, *, seed: int = 0, classes: tuple[str, ...] = ("glioma", "meningioma")) -> None:
    """An untrained model with drawn global embeddings: real code, no meaning."""
    import torch
    from safetensors.torch import save_file

    from pipelines.inference import build_model

    card: dict[str, Any] = {
        "format": "model/1",
        "classes": list(classes),
        "encoder": "compact",
        "embedding_dim": 16,
        "momentum": 0.9,
        "temperature": 0.5,
        "reject": {"score": -1.0, "margin": 0.0},
        "extract": {
            "side_px": SIDE_PX,
            "min_mean": 10.0,
            "max_saturated": 0.9,
            "min_contrast": 5.0,
            "min_sharpness": 0.0,
            "max_smear": 100.0,
            "window_low": 0.5,
            "window_high": 99.5,
            "min_change": 0.0,
        },
        "recipe": "0123456789ab",
    }
    torch.manual_seed(seed)
    model = build_model(card)
    vectors_KD = torch.randn_like(model.global_embeddings.vectors)
    model.global_embeddings.vectors.copy_(torch.nn.functional.normalize(vectors_KD, dim=1))
    model.global_embeddings.seen.fill_(True)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(model.state_dict(), folder / "model.safetensors")
    write_json(folder / "model.json", card)


def build_and_seal(workspace: Workspace, out: Path, **changes: Any) -> Path:
    """A package with its lineage record, as registration makes it."""
    from pipelines.package import build_package

    videos = {"train": ["a" * 64, "b" * 64], "validation": ["c" * 64]}
    package = build_package(workspace, out, requirements=REQUIREMENTS, videos=videos)
    inputs: dict[str, Any] = {
        "git_commit": "c" * 40,
        "dvc_lock": {"schema": "2.0", "stages": {}},
        "manifest_sha256": "1" * 64,
        "splits_sha256": "2" * 64,
        "video_ids": videos | {"test": ["d" * 64]},
        "params": {"train": {"seed": 0}},
        "environment": ENVIRONMENT,
        "seeds": {"train": 0},
        "logical_shards": 4,
        "restarts": 0,
        "weights_sha256": sha256_file(workspace.weights),
        "package_sha256": lineage.tree_digest(package),
        "source_tar_sha256": sha256_file(package / "source.tar"),
        "metrics": {"macro_f1": 0.9, "saliency_iou": None},
        "previous_sha256": None,
    }
    lineage.write(package, lineage.build(**(inputs | changes)))
    return package
