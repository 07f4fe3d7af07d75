from __future__ import annotations

import numpy as np
import pytest

from pipelines import sampling


@pytest.fixture
def data() -> tuple[np.ndarray, list[str], list[str]]:
    """Three classes of very unequal size; class 0 has three patients with two videos of five frames each."""
    rows = [(0, f"p{patient}", f"p{patient}v{video}") for patient in range(3) for video in range(2) for _ in range(5)]
    rows += [(1, "p7", "p7v0")] * 4 + [(2, f"p{8 + patient}", f"v{patient}") for patient in range(40)]
    labels, patients, videos = zip(*rows, strict=True)
    return np.array(labels), list(patients), list(videos)


def test_every_batch_and_every_shard_of_it_is_balanced(data: tuple[np.ndarray, list[str], list[str]]) -> None:
    labels, patients, videos = data
    for batch in sampling.epoch_order(labels, patients, videos, batch=24, seed=1, epoch=0):
        for shard in np.array_split(batch, 4):
            assert np.bincount(labels[shard], minlength=3).tolist() == [2, 2, 2]


def test_the_order_is_a_function_of_seed_and_epoch(data: tuple[np.ndarray, list[str], list[str]]) -> None:
    orders = [
        sampling.epoch_order(*data, batch=16, seed=seed, epoch=epoch)
        for seed, epoch in [(1, 0), (1, 0), (1, 1), (2, 0)]
    ]
    assert (orders[0] == orders[1]).all()
    assert (orders[0] != orders[2]).any()
    assert (orders[0] != orders[3]).any()


def test_neighbours_in_a_class_come_from_different_patients(
    data: tuple[np.ndarray, list[str], list[str]],
) -> None:
    labels, patients, videos = data
    order = sampling.epoch_order(labels, patients, videos, batch=12, seed=3, epoch=5).ravel()
    queue = [patients[index] for index in order if labels[index] == 0]
    rounds = [queue[start : start + 3] for start in range(0, len(queue) - 2, 3)]
    assert all(len(set(turn)) == 3 for turn in rounds)


def test_a_patients_videos_take_turns(data: tuple[np.ndarray, list[str], list[str]]) -> None:
    labels, patients, videos = data
    order = sampling.epoch_order(labels, patients, videos, batch=48, seed=3, epoch=2).ravel()
    own = [videos[index] for index in order if patients[index] == "p1"][:10]
    assert all(len(set(own[start : start + 2])) == 2 for start in range(0, len(own) - 1, 2))


def test_an_epoch_has_as_many_steps_as_the_frames_fill() -> None:
    assert [sampling.steps_per_epoch(count, 8) for count in (1, 8, 9, 24)] == [1, 1, 2, 3]
