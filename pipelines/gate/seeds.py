"""The clause on chance: trainings that differ by their seed alone hold up too, or this one was a lucky draw."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from pipelines.files import digest
from pipelines.gate import frames
from pipelines.gate.clause import ROUNDING, Clause
from pipelines.gate.contestant import Contestant
from pipelines.params import PromoteParams

LEARNT_FROM = ("train", "validation")


def siblings(record: Mapping[str, Any], others: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Names of those ``others`` that were trained as ``record`` was but for the seed; of each seed the last one."""
    found = {_seed(other): name for name, other in others.items() if _training(other) == _training(record)}
    return [name for seed, name in sorted(found.items()) if seed != _seed(record)]


def clause(
    policy: PromoteParams,
    asked: int,
    trainings: Sequence[Contestant],
    champion: Contestant | None,
    test: pd.DataFrame,
) -> Clause:
    """``trainings``: the challenger and those beside it. Each by its value: the bounds are the challenger's to hold."""
    floor = policy.first_macro_f1 if champion is None else policy.min_macro_f1
    reached = [frames.macro_f1(frames.labelled(one, test)) for one in trainings]
    lost = [_lost(one, champion, test) for one in trainings] if champion else []
    failing = [value for value in reached if value is None or value < floor - ROUNDING]
    failing += [value for value in lost if value is None or value > policy.max_loss + ROUNDING]
    known = [value for value in reached if value is not None]
    trained = f"{len(trainings)} trainings that differ by their seed" if len(trainings) > 1 else "one training"
    note = f"Of {trained}, the worst reaches macro-F1 {min(known, default=0):.3f}"
    if any(value is not None for value in lost):
        note += f" and loses {max(value for value in lost if value is not None):.3f} against the champion"
    missing = asked - len(trainings)
    if missing > 0 and not failing:
        more = "1 more is" if missing == 1 else f"{missing} more are"
        note += f"; {more} asked: set another train.seed, retrain, then `lclsc promote` this one again"
    return Clause(
        name="seeds",
        verdict="refused" if failing else "undecided" if missing > 0 else "passed",
        value=float(len(trainings)),
        bound=float(asked),
        note=f"{note}.",
    )


def _lost(one: Contestant, champion: Contestant, test: pd.DataFrame) -> float | None:
    before, after = (frames.macro_f1(side) for side in reversed(frames.shared(one, champion, test)))
    return None if before is None or after is None else before - after


def _training(record: Mapping[str, Any]) -> str:
    """Names what a training started from, but for its seed: parameters, videos, code."""
    params, splits = record["params"], record["data"]["splits"]
    train = {name: value for name, value in params["train"].items() if name != "seed"}
    videos = {name: splits[name]["sha256"] for name in LEARNT_FROM if name in splits}
    code = record["source_tar_sha256"]
    return digest({"extract": params.get("extract"), "train": train, "videos": videos, "code": code})


def _seed(record: Mapping[str, Any]) -> int:
    return int(record["params"]["train"]["seed"])
