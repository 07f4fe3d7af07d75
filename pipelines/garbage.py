"""Python's garbage collector beside libraries of a million objects.

Reference counting frees what a program drops; the collector only finds cycles, and looks through every object of
torch, MLflow and Prefect to do so: a fifth of the time that their import takes, and seconds once more at the end.
"""

from __future__ import annotations

import atexit
import gc

THRESHOLD = 10_000
"""New objects between two collections; Python's own number is 700."""


def collect_rarely() -> None:
    """For this process: fewer collections, and none at its end, when all memory is given back anyway."""
    gc.set_threshold(THRESHOLD)
    atexit.register(gc.freeze)
