"""A training's state in a folder: weights and optimiser as safetensors, the rest as JSON. No pickle.

What is read back is bit for bit what was written: safetensors keep the bytes, JSON the shortest digits that
name a number.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from pipelines.files import read_json, write_json

WEIGHTS = "model.safetensors"
PROGRESS = "progress.json"
_OPTIMIZER = "optimizer.safetensors"


def save(folder: Path, model: torch.nn.Module, optimizer: torch.optim.Optimizer, progress: Mapping[str, Any]) -> None:
    save_file({name: _plain(tensor) for name, tensor in model.state_dict().items()}, folder / WEIGHTS)
    save_file(_moments(model, optimizer), folder / _OPTIMIZER)
    write_json(folder / PROGRESS, dict(progress))


def restore(folder: Path, model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Fill model and optimiser, on whatever device they are, and return the progress."""
    model.load_state_dict(load_file(folder / WEIGHTS))
    moments = load_file(folder / _OPTIMIZER)
    for name, parameter in model.named_parameters():
        for key in _keys_of(name, moments):
            tensor = moments[f"{name}.{key}"]
            optimizer.state[parameter][key] = tensor if key == "step" else tensor.to(parameter.device)
    return dict(read_json(folder / PROGRESS))


def _moments(model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """AdamW's state under the names of its parameters."""
    return {
        f"{name}.{key}": _plain(value)
        for name, parameter in model.named_parameters()
        for key, value in optimizer.state.get(parameter, {}).items()
    }


def _keys_of(name: str, moments: Mapping[str, torch.Tensor]) -> list[str]:
    return [key for key in ("step", "exp_avg", "exp_avg_sq") if f"{name}.{key}" in moments]


def _plain(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().cpu().contiguous()
