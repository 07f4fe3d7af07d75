"""The formula of benchmarks/cost.py gives back what it was made from, and spreads only what is spread."""

from __future__ import annotations

import json

import pytest

import cost as benchmark
from cost import Amount

COSTS = {
    "intake": {"at all": 2.0, "video": 0.3, "frame": 0.004},
    "extract": {"at all": 7.0, "video": 0.05, "frame": 0.003},
    "train": {"at all": 12.0, "step": 0.3},
    "evaluate": {"at all": 9.0, "video": 0.0, "frame": 0.002},
    "around": {"at all": 20.0, "video": 0.02, "frame": 0.0},
}
AMOUNTS = [
    Amount(videos=16, frames=24, steps=12),
    Amount(videos=48, frames=24, steps=36),
    Amount(videos=16, frames=120, steps=60),
]


def test_costs_that_made_the_times_are_found_again() -> None:
    found = benchmark.fitted([(amount, benchmark.predicted(COSTS, amount)) for amount in AMOUNTS])
    assert {stage: dict(terms) for stage, terms in found.items()} == {
        stage: pytest.approx(terms, abs=1e-9) for stage, terms in COSTS.items()
    }


def test_a_machine_that_was_slow_once_makes_no_cost_negative() -> None:
    seen = [(amount, benchmark.predicted(COSTS, amount)) for amount in AMOUNTS]
    seen[0][1]["intake"] *= 10
    assert min(benchmark.fitted(seen)["intake"].values()) >= 0


def test_more_machines_shorten_what_is_spread_and_nothing_else() -> None:
    amount = Amount(videos=1000, frames=100, steps=50)
    one, four = (benchmark.predicted(COSTS, amount, machines=machines) for machines in (1, 4))
    shorter = {stage for stage in one if four[stage] < one[stage]}
    assert shorter == set(benchmark.SPREAD)
    assert four["extract"] == pytest.approx(7.0 + (1000 * 0.05 + 100_000 * 0.003) / 4)


def test_near_copies_cost_what_their_own_benchmark_measured() -> None:
    results = json.loads((benchmark.ROOT / "benchmarks" / "results" / "near_copy.json").read_text())
    (seconds,) = [
        one["value"] for one in results["claims"] if one["name"] == "a clip of 6 s against 10000 of one minute"
    ]
    likely = 6 * 60 * benchmark.LIKELY  # stored clips are longer than the one that is asked for
    looked_up = benchmark.near_copies(videos=1, length=6, stored_hours=10_000 / 60) - 6 * 6 * benchmark.LIKELY
    assert likely + looked_up == pytest.approx(seconds, rel=0.4)


def test_near_copies_of_many_small_workspaces_cost_less_than_those_of_a_large_one() -> None:
    one = benchmark.near_copies(videos=120_000, length=300, stored_hours=5_000)
    hundred = 100 * benchmark.near_copies(videos=1_200, length=300, stored_hours=50)
    assert (round(one / 86400), round(hundred / 86400)) == (1292, 260)  # as docs/scaling.md says
