"""Clauses on what stands behind the figures: are they this model's, and is the model what its record says?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from pipelines.evidence.check import Check
from pipelines.gate.clause import Clause, finite, nothing_found
from pipelines.gate.contestant import Contestant
from pipelines.manifest import Video
from pipelines.params import PromoteParams

REQUIRED = ("macro_f1", "balanced_accuracy", "ece")
"""Figures without which nobody should decide."""
SAME_PROBABILITY = 1e-3
CLAUSE_OF_CHECK = {
    "lineage_copies": "lineage",
    "lineage_record": "lineage",
    "package": "lineage",
    "commit": "lineage",
    "params": "lineage",
    "weights": "weights",
    "metrics": "recorded_figures",
}
"""Checks of an audit that have a clause of their own; all others are ``audit``."""
OF_CHECKS = {
    "lineage": "The record is complete, and run, package, registry and ledger hold the same one.",
    "weights": "The packaged weights are those that were recorded and that the pipeline built.",
    "recorded_figures": "The recorded figures are those of the evaluation, and its predictions give them again.",
    "audit": "Tables, splits, frames and ledger hold together, and no patient withdrew.",
}


@dataclass(frozen=True, kw_only=True)
class Served:
    """What one frame costs through the packaged model, on this machine."""

    latency_ms: float  # 95th percentile
    memory_mib: float  # at its peak


@dataclass(frozen=True, kw_only=True, eq=False)
class Evidence:
    """What the gate knows beside the scores."""

    checks: Sequence[Check] = ()
    videos: Mapping[str, Video] = field(default_factory=dict)  # of every manifest that either model was built from
    recorded: pd.DataFrame | None = None  # predictions.parquet of the version
    classes: Sequence[str] = ()  # in the order of the recorded probabilities
    figures: Mapping[str, Any] | None = None  # metrics of reports/evaluate.json
    card: Mapping[str, str] = field(default_factory=dict)
    served: Served | None = None


def clauses(
    policy: PromoteParams,
    challenger: Contestant,
    champion: Contestant | None,
    test: pd.DataFrame,
    evidence: Evidence,
) -> Iterator[Clause]:
    yield unseen([challenger, champion] if champion else [challenger], test, evidence.videos)
    if champion is not None:
        yield _classes(policy, challenger, champion)
    yield _same_answers(challenger, test, evidence)
    yield from of_checks(evidence.checks)
    yield card(evidence.card)


def unseen(contestants: Sequence[Contestant], test: pd.DataFrame, videos: Mapping[str, Video]) -> Clause:
    """No test patient, and no test video, in what either model was fitted or calibrated on."""
    problems: list[str] = []
    for one in contestants:
        shown = one.training_videos & set(test.video_id)
        strangers = one.training_videos - videos.keys()
        patients = {videos[video].patient_id for video in one.training_videos & videos.keys()} & set(test.patient_id)
        if shown:
            problems.append(f"{one.name} was trained on {len(shown)} of the test videos")
        if patients:
            problems.append(f"{one.name} was trained on the test patients {', '.join(sorted(patients)[:3])}")
        if strangers:
            problems.append(f"{one.name} was trained on {len(strangers)} videos of no known manifest")
    return nothing_found("unseen_patients", problems, "No test patient was used in training or calibration.")


def of_checks(checks: Sequence[Check]) -> Iterator[Clause]:
    """An audit's checks by clause; a check that could not be made counts as one that failed."""
    for name, good in OF_CHECKS.items():
        own = [check for check in checks if CLAUSE_OF_CHECK.get(check.name, "audit") == name]
        problems = [_told(check) for check in own if check.verdict != "pass"]
        yield nothing_found(name, problems if own else ["nothing was checked"], good)


def card(found: Mapping[str, str]) -> Clause:
    """A reader must know what the model is for, what it was made from and where it fails."""
    empty = [f"card.{name} is empty" for name in ("intended_use", "data", "limits") if not found.get(name, "").strip()]
    return nothing_found("model_card", empty, "Intended use, data and limits are stated.")


def figures_needed(policy: PromoteParams, figures: Mapping[str, Any] | None) -> Clause:
    """Every figure that the decision rests on is a number."""
    asked = [name for name, floor in floors(policy).items() if floor is not None]
    known = figures or {}
    problems = [f"{name} has no value" for name in (*REQUIRED, *asked) if finite(_number(known.get(name))) is None]
    return nothing_found("figures_complete", problems, "Every figure that is asked for has a value.")


def floors(policy: PromoteParams) -> dict[str, float | None]:
    """Figure of the evaluation -> floor."""
    return {
        "corrupted_accuracy": policy.min_corrupted_accuracy,
        "saliency_iou": policy.min_saliency_iou,
        "pointing": policy.min_pointing,
        "insertion": policy.min_insertion,
    }


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def _told(check: Check) -> str:
    expected = f", not {check.expected}" if check.expected else ""
    return f"{check.name}: {check.object} is {check.found or check.verdict}{expected}"


def _classes(policy: PromoteParams, challenger: Contestant, champion: Contestant) -> Clause:
    mine, theirs = set(challenger.classes), set(champion.classes)
    parts = [
        f"{word} {', '.join(sorted(names))}"
        for word, names in (("new:", mine - theirs), ("gone:", theirs - mine))
        if names
    ]
    return Clause(
        name="classes",
        verdict="passed" if not parts or policy.allow_new_classes else "refused",
        value=float(len(mine ^ theirs)),
        bound=None if policy.allow_new_classes else 0.0,
        note=f"Classes differ ({'; '.join(parts)})." if parts else "Both know the same classes.",
    )


def _same_answers(challenger: Contestant, test: pd.DataFrame, evidence: Evidence) -> Clause:
    """Loaded in a fresh process that may not unpickle, the package gives back the predictions on record."""
    name, good = "same_answers", "In a fresh process without pickle the package gives back its recorded predictions."
    if evidence.recorded is None:
        return nothing_found(name, ["no intact predictions.parquet is on record"], good)
    kept = evidence.recorded[evidence.recorded.keep & evidence.recorded.video_id.isin(test.video_id)]
    if kept.empty:
        return nothing_found(name, ["no prediction of a current test video is on record"], good)
    known = set(evidence.recorded.video_id)
    given = challenger.scores[challenger.scores.video_id.isin(known)]
    return nothing_found(name, list(_differences(kept, given, evidence.classes)), good)


def _differences(kept: pd.DataFrame, given: pd.DataFrame, classes: Sequence[str]) -> Iterator[str]:
    both = kept.merge(given, on=["video_id", "frame_index"], how="outer", suffixes=("", "_given"), indicator=True)
    alone = int((both._merge != "both").sum())
    if alone:
        yield f"{alone} of {len(both)} frames are judged by one of the two only"
    both = both[both._merge == "both"]
    if both.empty:
        return
    recorded = np.array(list(both.probabilities), dtype=float)
    again = np.array([[row.get(name, np.nan) for name in classes] for row in both.probabilities_given], dtype=float)
    same = recorded.shape == again.shape and np.abs(recorded - again).max(1) <= SAME_PROBABILITY
    if not np.all(same):
        count = int((~np.asarray(same)).sum()) if np.ndim(same) else len(both)
        yield f"{count} of {len(both)} frames get other probabilities than recorded"
