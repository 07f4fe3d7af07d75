"""How often does the gate promote what it should not? Null retrains through the gate's own decision functions.

A retrain of the same quality is drawn again and again: patients differ in difficulty, both models share most of it,
frames come in runs of near-copies, classes are unequal. Two ways to be wrong are counted:

- superiority: a challenger of the *same* quality is declared better;
- non-inferiority: a challenger that truly loses *exactly the margin* passes as no worse.

Beside the gate, on the same draws: McNemar's test over frames, a bootstrap over frames, and "the better figure wins".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from scipy.special import expit

from harness import Claim, Report, at_least, at_most, figure, read_options
from pipelines.gate import statistics

Float = NDArray[np.float64]
ERROR_RATE, MARGIN = 0.025, 0.05
RUN = 10  # frames of one run are copies of each other
SHARED, OWN = 1.0, 0.5  # standard deviations, in logits, of a patient's difficulty: of both models, of each alone
QUALITY = (4.2, 3.6, 3.2)  # logit of a right frame in each class
SHARES = (0.5, 0.3, 0.2)  # of the patients
ROW_DRAWS = 200
TRUTH = 400_000  # patients, of whom the macro-F1 is the true one to 0.0002
AT_ONCE = 500  # simulations whose frames are resampled together


@dataclass(frozen=True, kw_only=True)
class Retrains:
    """S simulated pairs of models: counts (S, P, 2, K, K), and (S, 2) frames that one of the two alone has right."""

    pairs: Float
    stratum_P: NDArray[np.int64]
    alone_S2: NDArray[np.int64]


def main(arguments: Sequence[str] | None = None) -> None:
    options = read_options(__doc__, arguments)
    report = Report("gate", options)
    simulations = options.pick(10_000, quick=200)
    for patients in options.pick((8, 24, 40, 80), quick=(8, 40)):
        for claim in measured(report, patients, simulations):
            report.claim(claim)
    report.finish()


def measured(report: Report, patients: int, simulations: int) -> list[Claim]:
    """Rates of one number of patients."""
    null = draw(patients, simulations, gain=0.0, seed=patients)
    worse = draw(patients, simulations, gain=gain_at_margin(patients), seed=patients + 1)
    wrong = {f"null: {name}": share for name, share in superiority(null).items()}
    wrong |= {f"margin: {name}": share for name, share in no_worse(worse).items()}
    power = float(passes(null).mean())
    report.add({"patients": patients, "simulations": simulations, "margin": MARGIN, "rates": wrong, "power": power})
    claims = []
    for name in ("null: gate", "margin: gate"):
        low, _ = rate_interval(wrong[name], simulations)
        claims.append(at_most(f"{patients} patients, {name}, lower end of the 95 % interval", low, ERROR_RATE, ""))
    claims += [figure(f"{patients} patients, {name} promoted", share, "") for name, share in wrong.items()]
    words = f"{patients} patients: an equal challenger passes, margin {MARGIN}"
    return [*claims, at_least(words, power, 0.9, "") if patients == 80 else figure(words, power, "")]


def superiority(retrains: Retrains) -> dict[str, float]:
    """Share declared better, by rule."""
    p_S = [statistics.exchange_p(pairs, seed=number) for number, pairs in enumerate(retrains.pairs)]
    better_S = statistics.lost_macro_f1(retrains.pairs.sum(1)) < 0
    return {
        "gate": float((np.array(p_S) <= ERROR_RATE).mean()),
        "McNemar over frames": float((mcnemar(retrains.alone_S2) & better_S).mean()),
        "bootstrap over frames": float((rows_upper(retrains) < 0).mean()),
        "better figure": float(better_S.mean()),
    }


def no_worse(retrains: Retrains) -> dict[str, float]:
    """Share passed as no worse than by the margin, by rule."""
    lost_S = statistics.lost_macro_f1(retrains.pairs.sum(1))
    return {
        "gate": float(passes(retrains).mean()),
        "bootstrap over frames": float((rows_upper(retrains) <= MARGIN).mean()),
        "figure within the margin": float((lost_S <= MARGIN).mean()),
    }


def passes(retrains: Retrains) -> NDArray[np.bool_]:
    found = statistics.estimate(statistics.lost_macro_f1, retrains.pairs, retrains.stratum_P, axis=-4)
    result: NDArray[np.bool_] = found.upper(ERROR_RATE) <= MARGIN
    return result


def mcnemar(alone_S2: NDArray[np.int64]) -> NDArray[np.bool_]:
    """The challenger alone is right in more frames than chance would give, as if frames were independent."""
    first, second = alone_S2.T
    result: NDArray[np.bool_] = stats.binom.sf(second - 1, first + second, 0.5) <= ERROR_RATE
    return result


def rows_upper(retrains: Retrains) -> Float:
    """Upper bound of the loss when frames are resampled: each model's counts by class, as if independent."""
    generator = np.random.default_rng(0)
    counts = retrains.pairs.sum(1)
    parts = [counts[start : start + AT_ONCE] for start in range(0, len(counts), AT_ONCE)]
    return np.concatenate([_rows_upper(part, generator) for part in parts])


def _rows_upper(counts: Float, generator: np.random.Generator) -> Float:
    rows = counts.sum(-1, keepdims=True)
    shares = np.divide(counts, rows, out=np.zeros_like(counts), where=rows > 0)
    drawn = generator.multinomial(
        np.broadcast_to(rows[..., 0].astype(np.int64), (ROW_DRAWS, *counts.shape[:-1])), shares
    ).astype(float)
    result: Float = np.quantile(statistics.lost_macro_f1(drawn), 1 - ERROR_RATE, axis=0)
    return result


def draw(patients: int, simulations: int, *, gain: float, seed: int) -> Retrains:
    """``gain`` in logits is what the second model (the challenger) has over the first."""
    generator = np.random.default_rng(seed)
    stratum_P = strata(patients)
    runs_SP = np.maximum(3, np.rint(generator.lognormal(np.log(10), 0.6, (simulations, patients)))).astype(int)
    base_SP = np.array(QUALITY)[stratum_P] + generator.normal(0, SHARED, (simulations, patients))
    first, second = (expit(base_SP + generator.normal(0, OWN, base_SP.shape) + more) for more in (0.0, gain))
    both = first * second + 0.5 * np.minimum(first * (1 - second), second * (1 - first))
    cells = np.stack([both, first - both, second - both, 1 - first - second + both], -1).clip(0, 1)
    found = RUN * generator.multinomial(runs_SP, cells / cells.sum(-1, keepdims=True))
    right_SPT = np.stack([found[..., 0] + found[..., 1], found[..., 0] + found[..., 2]], -1)
    mistaken_SPK = generator.dirichlet(np.full(len(QUALITY) - 1, 0.7), (simulations, patients))
    pairs = np.zeros((simulations, patients, 2, len(QUALITY), len(QUALITY)))
    for place, label in enumerate(stratum_P.tolist()):
        others = [k for k in range(len(QUALITY)) if k != label]
        wrong_ST = found[:, place].sum(-1)[:, None] - right_SPT[:, place]
        pairs[:, place, :, label, label] = right_SPT[:, place]
        for number, other in enumerate(others):
            pairs[:, place, :, label, other] = np.rint(wrong_ST * mistaken_SPK[:, place, number, None])
    return Retrains(pairs=pairs, stratum_P=stratum_P, alone_S2=found[..., 1:3].sum(1))


def strata(patients: int) -> NDArray[np.int64]:
    counts = [max(2, round(share * patients)) for share in SHARES[1:]]
    return np.repeat(np.arange(len(QUALITY)), [patients - sum(counts), *counts])


def gain_at_margin(patients: int) -> float:
    """The gain (below 0) with which the true macro-F1, of very many patients, is lower by the margin."""
    low, high = -4.0, 0.0
    for _ in range(12):
        middle = (low + high) / 2
        many = sum(
            draw(patients, TRUTH // 20 // patients, gain=middle, seed=seed).pairs.sum((0, 1)) for seed in range(20)
        )
        low, high = (middle, high) if float(statistics.lost_macro_f1(many)) > MARGIN else (low, middle)
    return (low + high) / 2


def rate_interval(rate: float, simulations: int) -> tuple[float, float]:
    """Clopper and Pearson's 95 % interval of a counted rate."""
    found = stats.binomtest(round(rate * simulations), simulations).proportion_ci(0.95, method="exact")
    return float(found.low), float(found.high)


if __name__ == "__main__":
    main()
