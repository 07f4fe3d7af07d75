"""Which frames are looked at twice."""

from __future__ import annotations

import numpy as np
import pytest

from pipelines.evaluation.frame_sample import chosen, identities, quotas


def videos(*kept: tuple[str, int]) -> list[dict[str, object]]:
    return [{"video_id": f"v{n}", "patient_id": patient, "kept": count} for n, (patient, count) in enumerate(kept)]


def test_patients_take_turns_before_videos_do() -> None:
    found = quotas(videos(("a", 9), ("a", 9), ("a", 9), ("b", 9), ("c", 9)), 3, seed=0)
    assert sum(found[f"v{n}"] for n in range(3)) == 1
    assert (found["v3"], found["v4"]) == (1, 1)


@pytest.mark.parametrize("frames", [0, 1, 7, 12, 40])
def test_no_video_gives_more_than_it_has_and_the_sum_is_what_was_asked(frames: int) -> None:
    cohort = videos(("a", 2), ("a", 0), ("b", 9), ("c", 5))
    found = quotas(cohort, frames, seed=1)
    assert sum(found.values()) == min(frames, 16)
    assert all(found[str(video["video_id"])] <= int(str(video["kept"])) for video in cohort)
    assert set(found) == {"v0", "v1", "v2", "v3"}


def test_videos_give_equally_many_where_they_can() -> None:
    found = quotas(videos(("a", 50), ("b", 50), ("c", 50)), 11, seed=0)
    assert sorted(found.values()) == [3, 4, 4]


def test_a_larger_sample_holds_the_smaller_one_and_only_kept_frames() -> None:
    index, keep = np.arange(30, dtype=np.int32), np.arange(30) % 3 != 0
    few, many = (chosen("v", index, keep, count, seed=0) for count in (5, 12))
    assert set(few) < set(many)
    assert keep[many].all()
    assert (np.diff(many) > 0).all()
    assert list(chosen("v", index, keep, 5, seed=1)) != list(few)


def test_a_frame_has_one_number_in_whatever_sample_it_stands() -> None:
    index = np.array([4, 9], dtype=np.int32)
    assert identities("v", index)[1] == identities("v", index[1:])[0]
    assert len({*identities("v", index), *identities("w", index)}) == 4
