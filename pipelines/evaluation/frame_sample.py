"""A seeded sample of kept frames, for what is too dear to measure on all: patients first, then videos, take turns.

Chosen by hashes of their names: a new patient moves none of the others' frames about.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lclsc import chance


def quotas(videos: Sequence[Mapping[str, Any]], frames: int, *, seed: int) -> dict[str, int]:
    """How many frames of each video (``video_id``, ``patient_id``, ``kept``) are taken, ``frames`` in all."""
    quota = {str(video["video_id"]): 0 for video in videos}
    queue = _turns(videos, seed)
    while queue and frames > 0:
        for video in queue[:frames]:
            quota[str(video["video_id"])] += 1
        frames -= len(queue)
        queue = [video for video in queue if quota[str(video["video_id"])] < int(video["kept"])]
    return quota


def chosen(
    video_id: str, frame_index_N: NDArray[np.int32], keep_N: NDArray[np.bool_], count: int, *, seed: int
) -> NDArray[np.int64]:
    """Places of ``count`` kept frames of a video, in order; a larger sample holds the smaller one."""
    places = np.flatnonzero(keep_N).tolist()
    drawn = sorted(places, key=lambda place: _draw(seed, video_id, int(frame_index_N[place])))
    return np.array(sorted(drawn[:count]), dtype=np.int64)


def identities(video_id: str, frame_index_N: NDArray[np.int32]) -> list[int]:
    """One number a frame, the same in whatever sample it stands: its coordinate in all further chance."""
    return [next(chance.words("frame", video_id, int(index))) for index in frame_index_N]


def _turns(videos: Sequence[Mapping[str, Any]], seed: int) -> list[Mapping[str, Any]]:
    """Every patient's first video, every patient's second one ..., in drawn order."""
    of_patient: dict[str, int] = defaultdict(int)
    turn: dict[str, int] = {}
    drawn = sorted(
        (video for video in videos if int(video["kept"])), key=lambda video: _draw(seed, str(video["video_id"]), -1)
    )
    for video in drawn:
        turn[str(video["video_id"])] = of_patient[str(video["patient_id"])]
        of_patient[str(video["patient_id"])] += 1
    return sorted(drawn, key=lambda video: turn[str(video["video_id"])])


def _draw(seed: int, video_id: str, frame_index: int) -> int:
    return next(chance.words("sample", seed, video_id, frame_index))
