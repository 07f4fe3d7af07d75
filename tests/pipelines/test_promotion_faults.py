"""A sample of the campaigns of ``make races``: promotions that are killed, and promotions that race."""

from __future__ import annotations

from pathlib import Path

import pytest
from faults import promotion_kills, promotion_races

from pipelines.workspace import Workspace


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory, empty_database: Path) -> Workspace:
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        return promotion_kills.built(tmp_path_factory.mktemp("kills") / "base", empty_database)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "where", "nth"),
    [
        ("approve", "after store.set_alias", 1),  # the champion moved, and nobody noted it
        ("promote", "before store.log_artifacts", 1),  # the verdict is noted, its file is not kept
    ],
)
def test_a_killed_promotion_is_finished_by_whoever_comes_next(
    base: Workspace, tmp_path: Path, command: str, where: str, nth: int
) -> None:
    template = promotion_kills.prepared(base, command, tmp_path / "template")
    names = promotion_kills.kill_points(template, command, tmp_path)
    point = [number for number, name in enumerate(names, start=1) if name == where][nth - 1]
    assert promotion_kills.killed(template, command, point, where, tmp_path) == []


@pytest.mark.slow
def test_promotions_that_race_leave_one_history_and_tell_the_losers(
    tmp_path: Path, empty_database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    template = promotion_races.prepared(tmp_path / "template", empty_database)
    races = [promotion_races.race(template, seed, tmp_path / f"race-{seed}") for seed in range(3)]
    assert [race["problems"] for race in races] == [[]] * 3
    assert {person[2] for race in races for person in race["people"]} > {"done", "killed"}
