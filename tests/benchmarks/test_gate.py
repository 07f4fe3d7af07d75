"""A small sample of benchmarks/gate.py: the gate keeps its promise where tests over frames do not."""

from __future__ import annotations

import numpy as np

import gate as benchmark


def test_retrains_of_the_same_quality_are_rarely_called_better() -> None:
    null = benchmark.draw(12, 150, gain=0.0, seed=3)
    found = benchmark.superiority(null)
    low, _ = benchmark.rate_interval(found["gate"], 150)
    assert low <= benchmark.ERROR_RATE
    assert min(found["McNemar over frames"], found["bootstrap over frames"]) > 0.15
    assert found["better figure"] > 0.3


def test_a_loss_of_exactly_the_margin_rarely_passes_and_no_loss_often() -> None:
    patients = 80
    worse = benchmark.draw(patients, 400, gain=benchmark.gain_at_margin(patients), seed=4)
    low, _ = benchmark.rate_interval(benchmark.no_worse(worse)["gate"], 400)
    assert low <= benchmark.ERROR_RATE
    equal = benchmark.draw(patients, 200, gain=0.0, seed=5)
    assert benchmark.passes(equal).mean() >= 0.9


def test_a_draw_counts_every_frame_once_for_each_model() -> None:
    found = benchmark.draw(10, 3, gain=0.0, seed=1)
    frames = found.pairs.sum((-1, -2))
    assert np.abs(frames[..., 0] - frames[..., 1]).max() <= 1, "but for the rounding of mistaken classes"
    assert (found.pairs.sum(-1).argmax(-1) == found.stratum_P[None, :, None]).all()
