"""Batch order: class-balanced, across patients and videos, a function of (seed, epoch) alone.

Positives from one clip are near-copies of each other, so neighbours in a class's queue come from different
patients, and one patient's frames from different videos. Whoever computes a batch, on however many workers,
and wherever a run resumes: step ``i`` of an epoch is always the same samples.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.int64]


def steps_per_epoch(samples: int, batch: int) -> int:
    return max(1, -(-samples // batch))


def epoch_order(
    labels: Indices, patients: Sequence[str], videos: Sequence[str], *, batch: int, seed: int, epoch: int
) -> Indices:
    """Sample indices of every step, shape (steps, batch): equally many of each class, within one."""
    steps = steps_per_epoch(len(labels), batch)
    classes = np.unique(labels)
    generator = np.random.Generator(np.random.Philox(key=seed, counter=[0, 0, 0, epoch]))
    turns = np.resize(classes, steps * batch)  # 0 1 2 3 0 1 2 3 ...: every shard of a batch is balanced too
    order = np.empty(steps * batch, dtype=np.int64)
    for label in classes:
        places = np.flatnonzero(turns == label)
        members = np.flatnonzero(labels == label)
        order[places] = _class_queue(members, patients, videos, len(places), generator)
    return order.reshape(steps, batch)


def _class_queue(
    members: Indices,
    patients: Sequence[str],
    videos: Sequence[str],
    length: int,
    generator: np.random.Generator,
) -> Indices:
    """``length`` members, patients taking turns in an order drawn anew each round."""
    queues: dict[str, Indices] = {}
    for patient in sorted({patients[index] for index in members}):
        own = np.array([index for index in members if patients[index] == patient], dtype=np.int64)
        queues[patient] = _across_videos(own, videos, generator)
    names = list(queues)
    rounds = -(-length // len(names))
    turns = np.concatenate([generator.permutation(len(names)) for _ in range(rounds)])[:length]
    taken = dict.fromkeys(names, 0)
    queue = np.empty(length, dtype=np.int64)
    for position, turn in enumerate(turns):
        own = queues[names[turn]]
        queue[position] = own[taken[names[turn]] % len(own)]
        taken[names[turn]] += 1
    return queue


def _across_videos(own: Indices, videos: Sequence[str], generator: np.random.Generator) -> Indices:
    """One patient's frames in random order, its videos taking turns."""
    shuffled = generator.permutation(own)
    seen: dict[str, int] = {}
    turn = np.empty(len(own), dtype=np.int64)
    for position, index in enumerate(shuffled):
        turn[position] = seen.setdefault(videos[index], 0)
        seen[videos[index]] += 1
    return shuffled[np.argsort(turn, kind="stable")]
