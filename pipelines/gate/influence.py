"""Does one patient carry the answer? The clauses on macro-F1, asked again without each patient in turn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from pipelines import metrics
from pipelines.gate import frames, quality, statistics
from pipelines.gate.clause import Verdict, worst
from pipelines.gate.contestant import Contestant
from pipelines.gate.frames import Counts
from pipelines.params import PromoteParams


@dataclass(frozen=True, kw_only=True)
class Without:
    """What would be said without one patient; no verdict where that would leave a class a single one."""

    patient_id: str
    macro_f1: float
    lost: float | None
    verdict: Verdict | None


@dataclass(frozen=True, kw_only=True)
class Influence:
    """``verdict`` of the clauses on macro-F1 with everybody, and without each."""

    verdict: Verdict
    patients: Sequence[Without]


def table(
    policy: PromoteParams, challenger: Contestant, champion: Contestant | None, test: pd.DataFrame
) -> Influence | None:
    """None where there are not even two patients to choose from."""
    mine = frames.labelled(challenger, test)
    if mine.patient_id.nunique() < 2:
        return None
    own, pair = frames.count(mine), None
    if champion is not None:
        shared, theirs = frames.shared(challenger, champion, test)
        if shared.patient_id.nunique() < 2:
            return None
        pair = frames.count(theirs, shared)
    rows = [_without(policy, own, pair, patient) for patient in own.patient_ids]
    return Influence(verdict=_verdict(policy, own, pair), patients=rows)


def _without(policy: PromoteParams, own: Counts, pair: Counts | None, patient: str) -> Without:
    was_lonely = bool(own.lonely())
    own, pair = own.without(patient), pair.without(patient) if pair else None
    return Without(
        patient_id=patient,
        macro_f1=float(metrics.macro_f1(own.matrices_PTKK[:, 0].sum(0))),
        lost=float(statistics.lost_macro_f1(pair.matrices_PTKK.sum(0))) if pair else None,
        verdict=_verdict(policy, own, pair) if was_lonely or not own.lonely() else None,
    )


def _verdict(policy: PromoteParams, own: Counts, pair: Counts | None) -> Verdict:
    clauses = [quality.floor(policy, own, first=pair is None)]
    return worst([*clauses, quality.compared(policy, pair)] if pair else clauses)
