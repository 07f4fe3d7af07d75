"""How many workers train: as many as share the work evenly, or as many as somebody asked for."""

from __future__ import annotations

import pytest

from pipelines import workers
from pipelines.errors import WrongUseError


@pytest.mark.parametrize(
    ("shards", "gpus", "cores", "count"), [(4, 0, 16, 2), (1, 0, 16, 1), (3, 0, 2, 1), (4, 0, 1, 1), (8, 3, 16, 2)]
)
def test_unasked_it_is_the_most_that_divides_the_shards(
    monkeypatch: pytest.MonkeyPatch, shards: int, gpus: int, cores: int, count: int
) -> None:
    monkeypatch.delenv("LCLSC_WORKERS", raising=False)
    monkeypatch.setattr(workers, "visible_gpus", lambda: gpus)
    monkeypatch.setattr(workers, "usable_cores", lambda: cores)
    assert workers.worker_count(shards) == count


@pytest.mark.parametrize("asked", ["3", "0", "-1"])
def test_what_was_asked_for_is_not_rounded(monkeypatch: pytest.MonkeyPatch, asked: str) -> None:
    monkeypatch.setenv("LCLSC_WORKERS", asked)
    with pytest.raises(WrongUseError, match=f"{asked} workers cannot share 4"):
        workers.worker_count(4)
