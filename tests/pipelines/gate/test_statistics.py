"""Oracles: loops over patients for the estimate, all exchanges by hand, and what bounds promise, counted."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy import stats

from pipelines import metrics
from pipelines.gate import statistics
from pipelines.metrics import Float


def drawn_counts(*shape: int, seed: int = 0) -> Float:
    return np.random.default_rng(seed).integers(0, 30, size=shape).astype(float)


def test_the_estimate_leaves_out_one_patient_after_another() -> None:
    counts_PKK, stratum_P = drawn_counts(7, 3, 3), np.array([0, 0, 0, 1, 1, 2, 2])
    found = statistics.estimate(metrics.macro_f1, counts_PKK, stratum_P)
    left = [float(metrics.macro_f1(counts_PKK.sum(0) - counts_PKK[p])) for p in range(7)]
    variance, parts, third = 0.0, [], 0.0
    for stratum in range(3):
        own = [left[p] for p in range(7) if stratum_P[p] == stratum]
        n = len(own)
        part = (n - 1) / n * sum((value - np.mean(own)) ** 2 for value in own)
        third += sum((-(n - 1) / n * (value - np.mean(own))) ** 3 for value in own)
        variance += part + (statistics.GUARD / 3 / (n + 1)) ** 2
        parts.append((part, n - 1))
    assert found.value == pytest.approx(float(metrics.macro_f1(counts_PKK.sum(0))))
    assert found.error == pytest.approx(np.sqrt(variance))
    assert found.degrees == pytest.approx(sum(p for p, _ in parts) ** 2 / sum(p**2 / n for p, n in parts))
    assert found.skewness == pytest.approx(third / variance**1.5)


def test_thousands_at_once_are_each_what_one_alone_is() -> None:
    counts, stratum_P = drawn_counts(5, 6, 2, 2, 2), np.array([0, 0, 0, 1, 1, 1])
    together = statistics.estimate(statistics.lost_macro_f1, counts, stratum_P, axis=-4)
    for number in range(5):
        alone = statistics.estimate(statistics.lost_macro_f1, counts[number], stratum_P, axis=-4)
        assert together.upper(0.025)[number] == pytest.approx(float(alone.upper(0.025)))
        assert together.lower(0.025)[number] == pytest.approx(float(alone.lower(0.025)))


def test_patients_who_all_agree_still_do_not_make_certainty() -> None:
    perfect_PKK = np.repeat(10 * np.eye(2)[None], 8, axis=0)
    found = statistics.estimate(metrics.macro_f1, perfect_PKK, np.array([0, 1] * 4))
    assert found.value == 1.0
    assert found.lower(0.025) < 0.95


def test_a_long_tail_lengthens_its_own_side_and_shortens_none() -> None:
    plain = {"value": np.float64(0.0), "error": np.float64(1.0), "degrees": np.float64(50.0)}
    tailed = statistics.Estimate(**plain, skewness=np.float64(0.4))
    even = statistics.Estimate(**plain, skewness=np.float64(0.0))
    assert tailed.upper(0.025) > even.upper(0.025)
    assert tailed.lower(0.025) == even.lower(0.025)
    assert even.upper(0.025) == pytest.approx(stats.t.isf(0.0125, 50))


def test_exchanges_of_few_patients_are_all_counted() -> None:
    pairs = drawn_counts(5, 2, 2, 2)
    lost = []
    for exchanged in itertools.product((False, True), repeat=5):
        swapped = np.array([pair[::-1] if flag else pair for pair, flag in zip(pairs, exchanged, strict=True)])
        lost.append(float(statistics.lost_macro_f1(swapped.sum(0))))
    truth = np.mean(np.array(lost) <= lost[0] + 1e-12)
    assert statistics.exchange_p(pairs, seed=0) == pytest.approx(truth)


def test_exchanges_of_many_patients_are_drawn_by_seed_and_never_reach_zero() -> None:
    pairs = np.zeros((30, 2, 2, 2))
    pairs[:, 0], pairs[:, 1] = [[5, 5], [5, 5]], [[10, 0], [0, 10]]
    assert statistics.exchange_p(pairs, seed=1) == statistics.exchange_p(pairs, seed=1) == 1 / statistics.DRAWS
    assert statistics.exchange_p(pairs[:, ::-1], seed=1) == 1.0


def test_patients_needed_bring_the_bound_to_the_distance() -> None:
    assert statistics.patients_needed(0.05, 0.10, 20) == 80
    assert statistics.patients_needed(0.0, 0.10, 20) is None
    assert statistics.patients_needed(0.05, 0.01, 20) == 21
