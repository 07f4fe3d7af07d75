"""Drift is found where it was planted, is not where it was not, and frames of a clip never count as many."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from pipelines import drift
from pipelines.schemas import IMAGE_FIGURES

CLASSES = ("glioma", "meningioma")


def table(
    rng: np.random.Generator, count: int, *, site: str = "a", glioma: float = 0.5, **shift: float
) -> pd.DataFrame:
    """Clips as ``drift.clips`` gives them, each figure normal with deviation 1."""
    columns: dict[str, Any] = {"site": site, "predicted": np.where(rng.random(count) < glioma, *CLASSES)}
    names = [*IMAGE_FIGURES, *(f"distance to {name}" for name in CLASSES), "share rejected", "share unfit"]
    for name in names:
        columns[name] = rng.normal(shift.get(name, 0.0), 1.0, count)
    return pd.DataFrame(columns)


def alarms(reference: pd.DataFrame, recent: pd.DataFrame, alpha: float = 0.01) -> set[tuple[str, str]]:
    found = drift.compare(reference, recent, alpha=alpha, min_cases=8)
    return {(one.site, one.figure) for one in found if one.alarm}


def test_holm_is_its_definition_step_by_step() -> None:
    p_values = [0.01, 0.04, 0.03, 0.005, 0.5]
    adjusted = drift.holm(p_values)
    assert adjusted == pytest.approx([0.04, 0.09, 0.09, 0.025, 0.5])
    for alpha in (0.02, 0.03, 0.05, 0.1):
        accepted = set()
        for rank, index in enumerate(np.argsort(p_values)):
            if p_values[index] > alpha / (len(p_values) - rank):
                break
            accepted.add(int(index))
        assert {index for index, p in enumerate(adjusted) if p <= alpha} == accepted
    assert drift.holm([]) == []


def test_without_a_change_alarms_are_as_rare_as_promised() -> None:
    """At alpha 0.2 of 150 looks; the binomial's 99.9 % point is 45."""
    rng = np.random.default_rng(1)
    looks = 150
    false = sum(bool(alarms(table(rng, 30), table(rng, 12), alpha=0.2)) for _ in range(looks))
    assert false <= stats.binom.ppf(0.999, looks, 0.2)


@pytest.mark.parametrize("figure", ["mean", "sharpness", "distance to glioma", "share rejected"])
def test_a_planted_shift_is_found_by_its_name(figure: str) -> None:
    rng = np.random.default_rng(2)
    assert alarms(table(rng, 30), table(rng, 20, **{figure: 2.5})) == {("a", figure)}


def test_another_class_mix_is_found() -> None:
    rng = np.random.default_rng(3)
    assert alarms(table(rng, 40, glioma=0.5), table(rng, 40, glioma=0.95)) == {("a", "class mix")}


def test_sites_are_looked_at_one_by_one_and_small_ones_together() -> None:
    rng = np.random.default_rng(14)
    reference = pd.concat([table(rng, 20, site="a"), table(rng, 20, site="b", mean=6.0)])
    recent = pd.concat([table(rng, 15, site="a"), table(rng, 15, site="b", mean=6.0)])
    assert alarms(reference, recent) == set(), "each is as it was"
    swapped = pd.concat([table(rng, 15, site="a", mean=6.0), table(rng, 15, site="b", mean=6.0)])
    assert alarms(reference, swapped) == {("a", "mean")}
    small = pd.concat([recent, *(table(rng, 3, site=f"new {n}", contrast=5.0) for n in range(4))])
    assert ("other sites", "contrast") in alarms(reference, small)
    assert drift.compare(reference, table(rng, 7), alpha=0.01, min_cases=8) == [], "too few to say anything"


def test_a_figure_that_never_changes_is_no_finding() -> None:
    rng = np.random.default_rng(5)
    reference, recent = table(rng, 20), table(rng, 20)
    for one in (reference, recent):
        one["saturated"] = 0.0
    p = {one.figure: one.p for one in drift.compare(reference, recent, alpha=0.01, min_cases=8)}
    assert p["saturated"] == 1.0


def frames(source: str, count: int, **changes: Any) -> list[dict[str, Any]]:
    row = {"at": 0, "site": "a", "case": None, "source": source, "kind": "video", "fit": True, "reject": False}
    row |= {
        "probabilities": [("glioma", 0.8), ("meningioma", 0.2)],
        "distances": [("glioma", 0.1), ("meningioma", 0.9)],
    }
    row |= dict.fromkeys(IMAGE_FIGURES, 1.0) | changes
    return [{**row, "mean": row["mean"] + n} for n in range(count)]


def test_a_clip_is_one_value_however_long_it_is_and_however_often_it_is_sent() -> None:
    rows = frames("one", 101) + frames("one", 101) + frames("two", 3, reject=True) + frames("three", 2, fit=False)
    found = drift.cases(pd.DataFrame(rows)).set_index("mean")
    assert sorted(found.index) == [1.5, 2.0, 51.0], "medians; of unfit frames where no other is"
    assert found.loc[51.0, "distance to meningioma"] == pytest.approx(0.9)
    assert (found.loc[2.0, "share rejected"], found.loc[2.0, "predicted"]) == (1.0, "glioma")
    assert (found.loc[1.5, "share unfit"], pd.isna(found.loc[1.5, "predicted"])) == (1.0, True)
    assert len(drift.cases(pd.DataFrame(rows[:0]))) == 0


def test_clips_of_a_case_are_one_value() -> None:
    rows = [*frames("one", 3, case="x"), *frames("two", 3, case="x", mean=11.0), *frames("three", 3)]
    found = drift.cases(pd.DataFrame(rows))
    assert sorted(found["mean"]) == [2.0, 7.0]


def test_single_pictures_of_one_site_and_hour_are_one_clip() -> None:
    hour = 3600 * 1000
    rows = [
        *(frames(f"p{n}", 1, kind="image", at=n)[0] for n in range(50)),
        *(frames(f"q{n}", 1, kind="image", at=hour + n)[0] for n in range(50)),
        *(frames(f"r{n}", 1, kind="image", site="b")[0] for n in range(50)),
    ]
    assert sorted(drift.cases(pd.DataFrame(rows)).site) == ["a", "a", "b"]


def test_the_class_mix_is_tested_as_by_counting_out_every_table() -> None:
    """Two classes: the chi-square of a 2 x 2 table orders tables as their distance from the middle does."""
    before, now = pd.Series(["glioma"] * 9 + ["meningioma"] * 3), pd.Series(["glioma"] * 2 + ["meningioma"] * 8)
    support = range(11)
    shares = stats.hypergeom(22, 11, 10).pmf(support)
    exact = sum(share for gliomas, share in zip(support, shares, strict=True) if abs(gliomas - 5) >= 3)
    assert drift._class_mix(before, now)["p"] == pytest.approx(exact, abs=0.01)
    assert drift._class_mix(before, before)["p"] == 1.0
