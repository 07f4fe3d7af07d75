"""How the optimiser is set: what decays, and how the learning rate goes."""

import math
from typing import Any

from torch import nn


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Matrices and kernels decay; norms and biases (one dimension) do not."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]


def learning_rate_share(step: int, total_steps: int, *, warmup: float) -> float:
    """Of the learning rate, in (0, 1]: a linear warm-up over that share of the steps, then a cosine to zero.

    A function of the step alone, counted from 0.
    """
    rising = max(1.0, warmup * total_steps)
    if step < rising:
        return (step + 1) / (rising + 1)
    done = (step - rising) / max(1.0, total_steps - rising)
    return 0.5 * (1 + math.cos(math.pi * done))
