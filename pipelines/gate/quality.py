"""Clauses on how well the challenger does on unseen patients, alone and beside the champion."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd

from pipelines import metrics
from pipelines.gate import frames, statistics
from pipelines.gate.clause import ROUNDING, Clause, Verdict, at_least, at_most, finite
from pipelines.gate.contestant import Contestant
from pipelines.gate.frames import Counts
from pipelines.gate.statistics import Estimate
from pipelines.params import PromoteParams

AS_FOUND = 0  # seed of the exchanges that are drawn where there are too many to count


def alone(policy: PromoteParams, mine: pd.DataFrame, *, first: bool) -> Iterator[Clause]:
    """Enough patients, a floor, and probabilities that mean what they say."""
    yield _patients(policy, mine)
    yield floor(policy, None if mine.empty else frames.count(mine), first=first)
    if policy.max_ece is not None:
        yield at_most("calibration", "Calibration error (ECE)", frames.ece(mine), policy.max_ece)


def beside(policy: PromoteParams, challenger: Contestant, champion: Contestant, test: pd.DataFrame) -> Clause:
    """Against the champion, re-scored on the same frames of the same unseen patients."""
    mine, theirs = frames.shared(challenger, champion, test)
    name = "no_worse" if policy.comparison == "non-inferiority" else "better"
    if mine.empty:
        note = "The two models share no frame that both judge."
        return Clause(name=name, verdict="refused", value=None, bound=policy.max_loss, note=note)
    return compared(policy, frames.count(theirs, mine))


def compared(policy: PromoteParams, counts: Counts) -> Clause:
    """By counts of champion and challenger."""
    return _better(policy, counts) if policy.comparison == "superiority" else _no_worse(policy, counts)


def _patients(policy: PromoteParams, mine: pd.DataFrame) -> Clause:
    count = int(mine.patient_id.nunique())
    missing = policy.min_patients - count
    note = f"{count} unseen patients have frames that can be judged"
    return Clause(
        name="enough_patients",
        verdict="undecided" if missing > 0 else "passed",
        value=float(count),
        bound=float(policy.min_patients),
        note=f"{note}; {missing} more are needed." if missing > 0 else f"{note}.",
        missing_patients=missing if missing > 0 else None,
    )


def floor(policy: PromoteParams, counts: Counts | None, *, first: bool) -> Clause:
    """A plain floor of the first champion; later the lower bound must reach it, and more patients may decide."""
    name, words, least = "macro_f1", "Macro-F1 on unseen patients", policy.min_macro_f1
    value = _value(counts)
    if first:
        return at_least(name, words, value, policy.first_macro_f1)
    if counts is None or value is None or value < least - ROUNDING:
        return at_least(name, words, value, least)
    lonely = counts.lonely()
    if lonely and least > 0:
        return _lonely(name, value, least, lonely)
    low = float(_estimate_f1(counts).lower(policy.error_rate)) if not lonely else value
    missing = _missing(value - least, value - low, counts.patients)
    passed = low >= least - ROUNDING or least <= 0
    note = f"{words} is {value:.3f} and with {_sure(policy)} above {max(low, 0.0):.3f}; {least:.3f} is asked"
    return _judged(name, passed=passed, value=value, bound=least, note=note, interval=[low, 1.0], missing=missing)


def _value(counts: Counts | None) -> float | None:
    return None if counts is None else finite(float(metrics.macro_f1(counts.matrices_PTKK[:, 0].sum(0))))


def _no_worse(policy: PromoteParams, counts: Counts) -> Clause:
    """Non-inferiority: the upper bound of what is lost stays below the margin."""
    name, margin = "no_worse", policy.max_loss
    lost = float(statistics.lost_macro_f1(counts.matrices_PTKK.sum(0)))
    lonely = counts.lonely()
    if lonely and margin < 1:
        verdict_open = lost <= margin + ROUNDING
        return _lonely(name, lost, margin, lonely) if verdict_open else _lost_too_much(name, policy, counts, lost)
    if lost > margin + ROUNDING:
        return _lost_too_much(name, policy, counts, lost)
    if margin >= 1:
        note = f"{_side_by_side(counts)} A loss of any size is allowed."
        return Clause(name=name, verdict="passed", value=lost, bound=margin, note=note)
    interval = loss_interval(policy, counts)
    missing = _missing(margin - lost, interval[1] - lost, counts.patients)
    most = min(interval[1], 1.0)
    note = f"{_side_by_side(counts)} With {_sure(policy)} it loses less than {most:.3f}; {margin:.3f} is allowed"
    passed = interval[1] <= margin + ROUNDING
    return _judged(name, passed=passed, value=lost, bound=margin, note=note, interval=interval, missing=missing)


def _better(policy: PromoteParams, counts: Counts) -> Clause:
    """Superiority: so much better by exchanging answers within patients at random would be rare."""
    lost = float(statistics.lost_macro_f1(counts.matrices_PTKK.sum(0)))
    p = statistics.exchange_p(counts.matrices_PTKK, seed=AS_FOUND)
    note = f"{_side_by_side(counts)} A retrain of the same quality gains as much in {p:.1%} of cases"
    note += f"; up to {policy.error_rate:.1%} is allowed"
    if lost >= 0:
        return Clause(name="better", verdict="refused", value=p, bound=policy.error_rate, note=f"{note}.")
    missing = None if p <= policy.error_rate else _missing_to_show(policy, counts, lost)
    return _judged(
        "better", passed=p <= policy.error_rate, value=p, bound=policy.error_rate, note=note, missing=missing
    )


def loss_interval(policy: PromoteParams, counts: Counts) -> list[float]:
    """Both bounds of the macro-F1 lost, of counts (champion, challenger)."""
    found = statistics.estimate(statistics.lost_macro_f1, counts.matrices_PTKK, counts.stratum_P, axis=-4)
    return [float(found.lower(policy.error_rate)), float(found.upper(policy.error_rate))]


def _estimate_f1(counts: Counts) -> Estimate:
    return statistics.estimate(metrics.macro_f1, counts.matrices_PTKK[:, 0], counts.stratum_P)


def _judged(
    name: str,
    *,
    passed: bool,
    value: float,
    bound: float,
    note: str,
    interval: list[float] | None = None,
    missing: int | None = None,
) -> Clause:
    verdict: Verdict = "passed" if passed else "undecided"
    more = f"; about {missing} more unseen patients would decide" if missing and not passed else ""
    return Clause(
        name=name,
        verdict=verdict,
        value=value,
        bound=bound,
        note=f"{note}{more}.",
        interval=interval,
        missing_patients=None if passed else missing,
    )


def _lonely(name: str, value: float, bound: float, lonely: list[str]) -> Clause:
    note = f"Of {', '.join(lonely)} there is one unseen patient; a bound needs two of every class"
    return Clause(
        name=name,
        verdict="undecided",
        value=value,
        bound=bound,
        note=f"{note}; {len(lonely)} more are needed.",
        missing_patients=len(lonely),
    )


def _lost_too_much(name: str, policy: PromoteParams, counts: Counts, lost: float) -> Clause:
    note = f"{_side_by_side(counts)} It loses {lost:.3f}; {policy.max_loss:.3f} is allowed."
    interval = None if counts.lonely() else loss_interval(policy, counts)
    return Clause(name=name, verdict="refused", value=lost, bound=policy.max_loss, note=note, interval=interval)


def _side_by_side(counts: Counts) -> str:
    before, after = metrics.macro_f1(counts.matrices_PTKK.sum(0)).tolist()
    return f"Macro-F1 {after:.3f} against the champion's {before:.3f} on the same {counts.patients} patients."


def _missing(distance: float, reach: float, patients: int) -> int | None:
    needed = statistics.patients_needed(distance, reach, patients)
    return None if needed is None else needed - patients


def _missing_to_show(policy: PromoteParams, counts: Counts, lost: float) -> int | None:
    """By the bound of the loss, which shrinks as patients come; exchanges tell nothing of that."""
    if counts.lonely():
        return len(counts.lonely())
    return _missing(-lost, loss_interval(policy, counts)[1] - lost, counts.patients)


def _sure(policy: PromoteParams) -> str:
    return f"{np.round(100 * (1 - policy.error_rate), 2):g} % certainty"
