"""The objective: total = LCL + lambda(t) (SC + beta TK), with the settings of its parts."""

import math
from dataclasses import dataclass
from typing import get_args

from lclsc.consistency import ConsistencyKind


@dataclass(frozen=True, kw_only=True)
class ObjectiveSettings:
    """Weights and shapes of the losses; ranges are checked on construction.

    The defaults are those of ``params.yaml``, chosen on validation patients: see ``docs/experiments.md``.
    """

    temperature: float = 0.03  # > 0
    rho: float = 0.1  # share of cells pooled at either end, (0, 0.5]
    delta: float = 0.8  # wanted contrast T+ - T-, [0, 1]
    beta: float = 0.5  # weight of TK within the saliency part, >= 0
    lam: float = 1.0  # weight of the saliency part after the ramp, >= 0
    ramp_start: float = 0.3  # share of steps with weight 0
    ramp_end: float = 0.6  # share of steps after which the weight is full
    consistency: ConsistencyKind = "mse"
    class_balanced: bool = False  # denominators of LCL per class
    global_keys: bool = True  # seen global embeddings join the keys of LCL

    def __post_init__(self) -> None:
        rules = {
            "temperature": (0 < self.temperature < math.inf, "> 0 and finite"),
            "rho": (0 < self.rho <= 0.5, "in (0, 0.5]"),
            "delta": (0 <= self.delta <= 1, "in [0, 1]"),
            "beta": (0 <= self.beta < math.inf, ">= 0 and finite"),
            "lam": (0 <= self.lam < math.inf, ">= 0 and finite"),
            "ramp_end": (0 <= self.ramp_start <= self.ramp_end <= 1, "in [ramp_start, 1]; ramp_start >= 0"),
            "consistency": (self.consistency in get_args(ConsistencyKind), f"of {get_args(ConsistencyKind)}"),
        }
        for name, (holds, rule) in rules.items():
            if not holds:
                raise ValueError(f"{name} is {getattr(self, name)!r}: it must be {rule}")

    def saliency_weight(self, step: int, total_steps: int) -> float:
        """lambda(t) at a step counted from 0."""
        return self.lam * ramp(step, total_steps, start=self.ramp_start, end=self.ramp_end)


def ramp(step: int, total_steps: int, *, start: float, end: float) -> float:
    """0 for the first ``start`` of the steps, 1 from ``end`` on, linear between."""
    done = step / max(total_steps, 1)
    if done >= end:
        return 1.0
    return max(0.0, (done - start) / (end - start)) if end > start else 0.0
