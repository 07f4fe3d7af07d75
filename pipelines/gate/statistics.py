"""What unseen patients say of a figure of merit, and how sure they are. A patient is one draw; a frame never is.

Every function works on counts alone, for one comparison or for thousands at once: benchmarks/gate.py sends its
simulations through here. Letters: S any leading axes, P patients, K classes.

Why not a plain bootstrap: see docs/decisions/0015-statistics-of-the-gate.md.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import special

from pipelines import metrics
from pipelines.gate.clause import ROUNDING
from pipelines.metrics import Float

GUARD = 0.2
"""Share of frames in which one more patient of each class, whom nobody has seen, is supposed to differ."""
TAIL = 0.5
"""Of the promised error is what a bound is drawn at: the other half pays for few and skewed patients."""
ENUMERATED = 12
"""Patients up to whom all exchanges are counted; beyond them DRAWS are drawn."""
DRAWS = 10_000
Figure = Callable[[Float], Float]


@dataclass(frozen=True, kw_only=True, eq=False)
class Estimate:
    """A figure, its standard error, the degrees of freedom behind that, and how skewed it is."""

    value: Float
    error: Float
    degrees: Float
    skewness: Float

    def upper(self, error_rate: float) -> Float:
        """Bound above which the true figure lies with ``error_rate`` at most."""
        return self.value + self._reach(error_rate, self.skewness)

    def lower(self, error_rate: float) -> Float:
        return self.value - self._reach(error_rate, -self.skewness)

    def _reach(self, error_rate: float, skewness: Float) -> Float:
        """Student's quantile, lengthened (never shortened) where a long tail may not have shown itself yet."""
        quantile = -special.stdtrit(self.degrees, error_rate * TAIL)  # scipy.stats gives the same after half a second
        result: Float = self.error * (quantile + np.maximum(0.0, skewness) * (2 * quantile**2 + 1) / 6)
        return result


def estimate(figure: Figure, counts_SP: Float, stratum_P: NDArray[np.int64], *, axis: int = -3) -> Estimate:
    """``figure`` of the patients' summed counts, leaving out one patient after another.

    ``axis`` is the patients' in ``counts_SP``: -3 in (S, P, K, K), -4 in (S, P, 2, K, K). Patients of one stratum
    stand for each other, so each stratum needs two.
    """
    total = counts_SP.sum(axis, keepdims=True)
    left_SP = figure(total - counts_SP)
    moves_SP = np.zeros_like(left_SP)
    strata = np.unique(stratum_P)
    variances = []
    for stratum in strata:
        own = np.flatnonzero(stratum_P == stratum)
        count = len(own)
        deviation = left_SP[..., own] - left_SP[..., own].mean(-1, keepdims=True)
        moves_SP[..., own] = -deviation * (count - 1) / count
        unseen = GUARD / len(strata) / (count + 1)
        variances.append((((count - 1) / count * (deviation**2).sum(-1)), count - 1, unseen**2))
    sampled = sum(variance for variance, _, _ in variances)
    error = np.sqrt(sampled + sum(unseen for _, _, unseen in variances))
    return Estimate(
        value=figure(total).squeeze(-1),
        error=error,
        degrees=_degrees([(variance, free) for variance, free, _ in variances]),
        skewness=(moves_SP**3).sum(-1) / error**3,
    )


def lost_macro_f1(pairs: Float) -> Float:
    """Macro-F1 of the first model (the champion) less that of the second, of counts (..., 2, K, K)."""
    f1 = metrics.macro_f1(pairs)
    result: Float = f1[..., 0] - f1[..., 1]
    return result


def exchange_p(pairs_P2KK: Float, *, seed: int) -> float:
    """How often exchanging the two models' answers, patient by patient at random, gains as much as was found.

    Under "a retrain of the same quality" the answers of the two are exchangeable within a patient, so this is
    exact, whatever the distribution: at most ``p`` of such retrains reach a value of ``p`` or less.
    """
    exchanged_DP = _exchanges(len(pairs_P2KK), seed)
    between_PKK = pairs_P2KK[:, 1] - pairs_P2KK[:, 0]
    total = pairs_P2KK.sum(0)
    moved_DKK = (exchanged_DP @ between_PKK.reshape(len(pairs_P2KK), -1)).reshape(-1, *total.shape[1:])
    lost_D = lost_macro_f1(np.stack([total[0] + moved_DKK, total[1] - moved_DKK], axis=1))
    return float((lost_D <= lost_D[0] + ROUNDING).mean())


def patients_needed(distance: float, reach: float, patients: int) -> int | None:
    """Patients with whom the bound would come as near as ``distance``; None where no number would do."""
    if distance <= 0 or not np.isfinite(reach):
        return None
    return max(patients + 1, int(np.ceil(patients * (reach / distance) ** 2)))


def _degrees(parts: list[tuple[Any, int]]) -> Float:
    """Satterthwaite's: strata that vary more count for more."""
    variance = sum(part for part, _ in parts)
    fourth = sum((part**2 / free for part, free in parts if free), start=np.zeros_like(variance))
    whole = float(sum(free for _, free in parts))
    result: Float = np.divide(variance**2, fourth, out=np.full(np.shape(variance), whole), where=fourth > 0)
    return result


def _exchanges(patients: int, seed: int) -> Float:
    """(D, P) of 0 and 1, the first row all 0: as found."""
    if patients <= ENUMERATED:
        return (np.arange(2**patients)[:, None] >> np.arange(patients) & 1).astype(float)
    generator = np.random.Generator(np.random.Philox(key=seed))
    drawn = generator.integers(0, 2, size=(DRAWS, patients)).astype(float)
    drawn[0] = 0.0
    return drawn
