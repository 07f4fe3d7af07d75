"""Contestants, cohorts and evidence of the gate's tests: small, complete, and good unless a test spoils them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from pipelines import gate
from pipelines import params as parameters
from pipelines.evidence.check import Check
from pipelines.gate import Contestant, Evidence, GateResult
from pipelines.gate.evidence import CLAUSE_OF_CHECK
from pipelines.manifest import Video
from pipelines.params import PromoteParams
from pipelines.workspace import template_file

CLASSES = ("glioma", "meningioma")
OTHER = dict(zip(CLASSES, CLASSES[::-1], strict=True))
FIGURES = {"macro_f1": 0.9, "balanced_accuracy": 0.9, "ece": 0.05, "corrupted_accuracy": 0.8, "saliency_iou": 0.6}


def policy(**changes: Any) -> PromoteParams:
    """The shipped policy, changed."""
    shipped = parameters.load(template_file("params.yaml")).promote.model_dump()
    for name, value in changes.items():
        shipped[name] = shipped[name] | value if isinstance(shipped[name], dict) else value
    return PromoteParams.model_validate(shipped)


def cohort(patients: int = 8, classes: Sequence[str] = CLASSES) -> pd.DataFrame:
    """One video a patient; classes and sites take turns."""
    rows = [
        (f"v{n}", f"p{n}", classes[n % len(classes)], f"site-{n // len(classes) % 2}", "ex-vivo")
        for n in range(patients)
    ]
    return pd.DataFrame(rows, columns=["video_id", "patient_id", "label", "site", "domain"])


def contestant(
    test: pd.DataFrame,
    *,
    wrong: int = 0,
    wrong_of: Sequence[str] | None = None,
    sure: float = 0.95,
    name: str = "version 2",
    frames: int = 10,
    **changes: Any,
) -> Contestant:
    """Right but for the first ``wrong`` frames of each video (or of the videos ``wrong_of``), always ``sure``."""
    rows = []
    for row in test.itertuples():
        faults = wrong if wrong_of is None or row.video_id in wrong_of else 0
        for n in range(frames):
            said = OTHER.get(str(row.label), "glioma") if n < faults else str(row.label)
            rows.append((row.video_id, n, said, probabilities(said, sorted(set(test.label)), sure), False))
    fields: dict[str, Any] = {
        "name": name,
        "classes": sorted(set(test.label)),
        "training_videos": frozenset({"t0", "t1"}),
        "scores": pd.DataFrame(rows, columns=gate.COLUMNS),
        "params": {"train": {"encoder": "compact", "learning_rate": 0.002}},
    }
    return Contestant(**(fields | changes))


def probabilities(said: str, classes: Sequence[str], sure: float) -> dict[str, float]:
    return {name: sure if name == said else (1 - sure) / (len(classes) - 1) for name in classes}


def evidence(test: pd.DataFrame, challenger: Contestant, **changes: Any) -> Evidence:
    """Everything in order: what was recorded is what the challenger says."""
    trained = [("t0", "q0"), ("t1", "q1"), *zip(test.video_id, test.patient_id, strict=True)]
    listed = [list(row.values()) for row in challenger.scores.probabilities]
    recorded = challenger.scores[["video_id", "frame_index"]].assign(probabilities=listed, keep=True)
    fields: dict[str, Any] = {
        "checks": [Check(name=name, verdict="pass", object="x") for name in (*CLAUSE_OF_CHECK, "tables_agree")],
        "videos": {video: _video(video, patient) for video, patient in trained},
        "recorded": recorded,
        "classes": sorted(set(test.label)),
        "figures": FIGURES,
        "card": {"intended_use": "tests", "data": "drawn", "limits": "all"},
    }
    return Evidence(**(fields | changes))


def decide(
    challenger: Contestant,
    champion: Contestant | None,
    test: pd.DataFrame,
    *,
    proof: Evidence | None = None,
    **changes: Any,
) -> GateResult:
    return gate.decide(
        policy(**changes),
        challenger=challenger,
        champion=champion,
        test=test,
        evidence=proof or evidence(test, challenger),
    )


def verdicts(result: GateResult) -> dict[str, str]:
    return {clause.name: clause.verdict for clause in result.clauses}


def refusing(result: GateResult) -> list[str]:
    return [clause.name for clause in result.clauses if clause.verdict == "refused"]


def named(result: GateResult, name: str) -> gate.Clause:
    return next(clause for clause in result.clauses if clause.name == name)


def _video(video_id: str, patient_id: str) -> Video:
    return Video(
        video_id=video_id, patient_id=patient_id, site="site-0", domain="ex-vivo", label="glioma", mask_sha256=""
    )
