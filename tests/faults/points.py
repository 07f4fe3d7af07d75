"""A number names a point: which step, what happens to it, and where. The same number is the same point."""

from __future__ import annotations

import random
from dataclasses import dataclass

from faults.steps import STEPS

FLOWS = 30
KINDS = {
    "all": 40,  # SIGKILL of the whole family at once, as when the power goes
    "alone": 10,  # SIGKILL of the process itself; its children see it gone
    "full": 8,  # no space left, from here on
    "io": 8,  # one input/output error
    "short": 4,  # no file may grow beyond a size: writes end in the middle
    "term": 4,
    "int": 4,
    "hup": 4,
    "clock": 4,  # a day back, from here on
    "locks": 4,  # locks of dead owners and of re-used process ids lie there before it starts
    "twice": 4,  # two of it at once
}
SERVER_KINDS = {"dropped": 6, "gone": 8, "refused": 3, "slow": 3}
"""Of a tracking server, for steps that speak to one: the reply is lost after it was committed; the server is away until
the step has given up; 503, a few times; late."""
CACHE_KINDS = {"readonly": 8}
"""DVC's cache takes no more, from here on."""
WITH_A_CACHE = ("intake", "left", "drop")
WITH_A_SERVER = ("register", "approve", "rollback")
FLOW_KINDS = {
    "all": 8,
    "alone": 4,
    "self": 4,  # whichever process reached the place: a stage, DVC, a Ray worker
    "named:raylet": 3,
    "named:gcs_server": 3,
    "named:ray::": 3,  # all workers
    "named:prefect.server": 3,  # the one that a retrain without a server starts for itself
    "full": 2,
    "readonly": 2,
    "term": 2,
    "int": 2,
    "hup": 2,
}
RAY_KINDS = ("named:raylet", "named:gcs_server", "named:ray::")
RAY_PART = 0.4  # of a flow's places: then its stages are over, and Ray with them


@dataclass(frozen=True, kw_only=True)
class Point:
    number: int
    step: str
    kind: str
    where: float  # of the undisturbed run's places, in [0, 1)


def points() -> list[Point]:
    """270 of steps, then 30 of whole flows; steps take turns, so that any beginning is a sample of all."""
    names = [(position / step.share, step.name) for step in STEPS.values() for position in range(step.share)]
    found = [_point(number, name) for number, (_, name) in enumerate(sorted(names))]
    return found + [_point(len(found) + number, "flow") for number in range(FLOWS)]


def _point(number: int, step: str) -> Point:
    chance = random.Random(f"point {number}")
    kinds = FLOW_KINDS if step == "flow" else KINDS
    kinds = kinds | (SERVER_KINDS if step in WITH_A_SERVER else {}) | (CACHE_KINDS if step in WITH_A_CACHE else {})
    (kind,) = chance.choices(list(kinds), weights=list(kinds.values()))
    where = chance.random() * (RAY_PART if kind in RAY_KINDS else 1.0)
    return Point(number=number, step=step, kind=kind, where=where)
