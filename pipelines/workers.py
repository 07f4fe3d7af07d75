"""How many workers train, on what, and how often they save. Changes nothing that is tracked."""

from __future__ import annotations

import contextlib
import os

import torch

from pipelines.cluster import usable_cores
from pipelines.errors import WrongUseError


def visible_gpus() -> int:
    return torch.cuda.device_count()


def gpu_name() -> str | None:
    """The kind of GPU that trains here, or None on a CPU."""
    return torch.cuda.get_device_name(0) if torch.cuda.is_available() else None


def worker_count(shards: int) -> int:
    """Training workers: ``LCLSC_WORKERS``, which must divide the shards; else as many as do, one a GPU or two cores."""
    asked = os.environ.get("LCLSC_WORKERS")
    wanted = int(asked) if asked else visible_gpus() or min(2, usable_cores())
    while not asked and shards % wanted:
        wanted -= 1
    if wanted < 1 or shards % wanted or (asked and 0 < visible_gpus() < wanted):
        raise WrongUseError(
            "workers_do_not_divide",
            f"{wanted} workers cannot share {shards} logical shards and {visible_gpus()} GPUs evenly.",
            f"Set LCLSC_WORKERS (or --workers) to a divisor of train.logical_shards ({shards}), one a GPU.",
        )
    return wanted


def checkpoint_seconds() -> float:
    """Work that a kill may cost: ``LCLSC_CHECKPOINT_SECONDS``, else half a minute; 0 saves after every step."""
    asked = os.environ.get("LCLSC_CHECKPOINT_SECONDS", "30")
    with contextlib.suppress(ValueError):
        if float(asked) >= 0:
            return float(asked)
    raise WrongUseError(
        "checkpoint_seconds",
        f"LCLSC_CHECKPOINT_SECONDS is {asked!r}: it must be a number of seconds, 0 or more.",
        "Correct or unset it.",
    )
