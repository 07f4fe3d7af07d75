"""One condition of the gate and its answer. What cannot be computed refuses: no number is not a good number."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Verdict = Literal["passed", "refused", "undecided"]
ROUNDING = 1e-12


@dataclass(frozen=True, kw_only=True)
class Clause:
    """``value`` stands against ``bound``; ``interval`` is what was judged where not the value itself.

    ``note`` is a sentence for a reader. ``missing_patients`` would decide what is undecided.
    """

    name: str
    verdict: Verdict
    value: float | None
    bound: float | None
    note: str
    interval: list[float] | None = None
    missing_patients: int | None = None


def at_least(name: str, words: str, value: float | None, floor: float) -> Clause:
    """Passed from ``floor`` on."""
    held = _known(value) and value >= floor - ROUNDING  # type: ignore[operator]
    return _plain(name, words, value, floor, held=held, side="at least")


def at_most(name: str, words: str, value: float | None, ceiling: float) -> Clause:
    """Passed up to ``ceiling``."""
    held = _known(value) and value <= ceiling + ROUNDING  # type: ignore[operator]
    return _plain(name, words, value, ceiling, held=held, side="at most")


def nothing_found(name: str, problems: Sequence[str], good: str) -> Clause:
    """Passed when nothing is wrong; the first problems are told."""
    told = "; ".join(problems[:3]) + (f"; and {len(problems) - 3} more" if len(problems) > 3 else "")
    return Clause(
        name=name,
        verdict="refused" if problems else "passed",
        value=float(len(problems)),
        bound=0.0,
        note=f"{told}." if problems else good,
    )


def worst(clauses: Sequence[Clause]) -> Verdict:
    """One refusal refuses, whatever the number of patients; else one doubt leaves it open; nothing asked too."""
    verdicts = {clause.verdict for clause in clauses}
    if "refused" in verdicts:
        return "refused"
    return "passed" if verdicts == {"passed"} else "undecided"


def finite(value: float | None) -> float | None:
    """A number, or None."""
    return float(value) if _known(value) else None  # type: ignore[arg-type]


def _known(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def _plain(name: str, words: str, value: float | None, bound: float, *, held: bool, side: str) -> Clause:
    found = f"is {value:.3f}" if _known(value) else "has no value"
    note = f"{words} {found}; {side} {bound:.3f} is asked."
    return Clause(name=name, verdict="passed" if held else "refused", value=finite(value), bound=bound, note=note)
