"""Has what a model looks at changed? One value a case, exact tests where they can be had, Holm over all of them.

Frames of a clip resemble each other, and so do clips of a patient: as rows of their own they would raise an alarm on
every look. So each *case*, all that is known to be of one patient, gives one value to each test. The chance that any
test of one look raises an alarm without a change is then at most ``alpha``. Where the client names no case a clip has
to stand for one, and several clips of a patient make that chance larger: benchmarks/drift.py measures by how much.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from pipelines.schemas import IMAGE_FIGURES

EXACT_CASES = 60
"""The exact distribution of the rank sum is counted out up to so many cases of the smaller side."""
RESAMPLES = 9_999
SEED = 0
ROUNDING = 1e-9


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One test. ``effect`` is the chance that a recent value exceeds a reference value; for the class mix, half the
    sum of the changes of the shares."""

    site: str
    figure: str
    test: str
    p: float
    p_adjusted: float
    effect: float
    before: float | None  # median of the reference; None for the class mix
    now: float | None
    alarm: bool

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def cases(rows: pd.DataFrame) -> pd.DataFrame:
    """One row a case of ``schemas.SERVED`` rows: site, predicted class, and the figures that are tested.

    Without a name a clip is a case, and so are the single pictures of one site and hour.
    """
    if rows.empty:
        return pd.DataFrame(columns=["site", "predicted"])
    hour = pd.to_datetime(rows["at"], unit="ms", utc=True).dt.floor("h").astype(str)
    site = rows["site"].fillna("")
    unnamed = rows["source"].where(rows["kind"] == "video", site + " " + hour)
    unit = rows["case"].astype(object).where(rows["case"].notna(), unnamed)
    return pd.DataFrame([_case(one) for _, one in rows.assign(site=site).groupby(unit, sort=True)])


def _case(rows: pd.DataFrame) -> dict[str, Any]:
    fit = rows[rows["fit"]]
    judged = fit if len(fit) else rows
    distances = pd.DataFrame([dict(pairs) for pairs in judged["distances"]]).median()
    probabilities = pd.DataFrame([dict(pairs) for pairs in fit["probabilities"]]).mean()
    return {
        "site": rows["site"].iloc[0],
        "predicted": probabilities.idxmax() if len(fit) else None,
        **{name: float(judged[name].median()) for name in IMAGE_FIGURES},
        **{f"distance to {name}": float(value) for name, value in distances.items()},
        "share rejected": float(fit["reject"].mean()) if len(fit) else np.nan,
        "share unfit": float(1 - len(fit) / len(rows)),
    }


def compare(reference: pd.DataFrame, recent: pd.DataFrame, *, alpha: float, min_cases: int) -> list[Finding]:
    """Every figure of every site of ``recent`` that has enough cases; the rest of the sites together.

    A site is held against itself where the reference knows it well enough, else against the whole reference.
    """
    found: list[dict[str, Any]] = []
    for site, now in _by_site(recent, min_cases):
        own = reference[reference["site"] == site]
        found += [{"site": site, **one} for one in _tests(own if len(own) >= min_cases else reference, now)]
    adjusted = holm([one["p"] for one in found])
    return [
        Finding(**one, p_adjusted=p_adjusted, alarm=p_adjusted <= alpha)
        for one, p_adjusted in zip(found, adjusted, strict=True)
    ]


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p-values, in the order given: all at most alpha are found at a family-wise error of alpha."""
    order = np.argsort(p_values, kind="stable")
    factors = len(p_values) - np.arange(len(p_values))
    stepped = np.minimum(1.0, np.maximum.accumulate(np.asarray(p_values, float)[order] * factors))
    adjusted = np.empty(len(p_values))
    adjusted[order] = stepped
    return [float(value) for value in adjusted]


def _by_site(recent: pd.DataFrame, min_cases: int) -> list[tuple[str, pd.DataFrame]]:
    groups = [(str(site), one) for site, one in recent.groupby("site", sort=True)]
    large = [(site, one) for site, one in groups if len(one) >= min_cases]
    small = [one for _, one in groups if len(one) < min_cases]
    rest = pd.concat(small) if small else recent.iloc[:0]
    return [*large, ("other sites", rest)] if len(rest) >= min_cases else large


def _tests(reference: pd.DataFrame, recent: pd.DataFrame) -> list[dict[str, Any]]:
    figures = [name for name in recent.columns if name not in ("site", "predicted") and name in reference.columns]
    pairs = ((name, reference[name].dropna().to_numpy(), recent[name].dropna().to_numpy()) for name in figures)
    tests = [_test(name, before_N, now_M) for name, before_N, now_M in pairs if len(before_N) and len(now_M)]
    return [*tests, _class_mix(reference["predicted"].dropna(), recent["predicted"].dropna())]


def _test(name: str, before_N: np.ndarray, now_M: np.ndarray) -> dict[str, Any]:
    """Distances may change in spread as well as in place: Kolmogorov-Smirnov. All else: the rank sum."""
    both = np.concatenate([before_N, now_M])
    ties = len(np.unique(both)) < len(both)
    rank = stats.mannwhitneyu(
        now_M, before_N, method="asymptotic" if ties or min(len(before_N), len(now_M)) > EXACT_CASES else "exact"
    )
    by_ranks = not name.startswith("distance")
    p = 1.0 if np.ptp(both) == 0 else float((rank if by_ranks else stats.ks_2samp(now_M, before_N)).pvalue)
    return {
        "figure": name,
        "test": "rank sum" if by_ranks else "Kolmogorov-Smirnov",
        "p": p,
        "effect": float(rank.statistic) / (len(now_M) * len(before_N)),
        "before": float(np.median(before_N)),
        "now": float(np.median(now_M)),
    }


def _class_mix(before: pd.Series, now: pd.Series) -> dict[str, Any]:
    """Chi-square of classes by period. Its distribution with these margins is drawn: with few cases the usual one
    is wrong."""
    names = sorted(set(before) | set(now))
    table = np.array([[int((one == name).sum()) for name in names] for one in (before, now)])
    p, change = 1.0, 0.0
    if len(names) > 1 and table.sum(axis=1).all():
        rng = np.random.default_rng(SEED)
        drawn_RK = rng.multivariate_hypergeometric(table.sum(axis=0), int(table[1].sum()), size=RESAMPLES)
        expected_K = table.sum(axis=0) * (table[1].sum() / table.sum())
        far_R = ((drawn_RK - expected_K) ** 2 / expected_K).sum(axis=1)
        far = ((table[1] - expected_K) ** 2 / expected_K).sum()
        p = float((1 + (far_R >= far - ROUNDING).sum()) / (1 + RESAMPLES))
        shares = table / table.sum(axis=1, keepdims=True)
        change = float(np.abs(shares[1] - shares[0]).sum() / 2)
    return {"figure": "class mix", "test": "chi-square", "p": p, "effect": change, "before": None, "now": None}
