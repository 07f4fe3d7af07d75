"""Frames of many videos in one memory-mapped file: training reads batches, never a whole data set into memory.

The file is written anew from verified shards before each training, whole or absent. Processes of one machine
share its pages; what travels to them is its path. N frames, M fields of view, S pixels a side.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.files import atomic_path
from pipelines.frames import Frames


class Pictures:
    """(N, S, S) grey pictures in a file; indexing reads only what is asked for."""

    def __init__(self, path: Path, shape: tuple[int, int, int]) -> None:
        self.path, self.shape = path, shape

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, wanted: Any) -> NDArray[np.uint8]:
        return np.asarray(self._file[wanted])

    def __reduce__(self) -> tuple[Any, ...]:
        return Pictures, (self.path, self.shape)

    @cached_property
    def _file(self) -> NDArray[np.uint8]:
        return np.memmap(self.path, dtype=np.uint8, mode="r", shape=self.shape)


@dataclass(frozen=True, kw_only=True, eq=False)
class Views:
    """(N, S, S) fields of view, each distinct one held once."""

    masks_MSS: NDArray[np.bool_]
    which_N: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.which_N)

    def __getitem__(self, wanted: Any) -> NDArray[np.bool_]:
        masks: NDArray[np.bool_] = self.masks_MSS[self.which_N[wanted]]
        return masks


def write(path: Path, clips: Iterable[Frames]) -> tuple[Pictures, Views]:
    """The clips' frames one after another, one clip in memory at a time."""
    masks, lengths, side_px = [], [], 0
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        for clip in clips:
            assert (clip.fov_NSS == clip.fov_NSS[:1]).all(), "a clip has one field of view"
            file.write(np.ascontiguousarray(clip.images_NSS).data)
            masks.append(clip.fov_NSS[0])
            lengths.append(len(clip))
            side_px = clip.images_NSS.shape[-1]
    pictures = Pictures(path, (sum(lengths), side_px, side_px))
    return pictures, Views(masks_MSS=np.stack(masks), which_N=np.repeat(np.arange(len(masks)), lengths))
