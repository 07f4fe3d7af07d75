"""decord as its README reads a video: frame by frame, RGB."""

from collections.abc import Iterator
from functools import partial

import cv2
import numpy as np
from decord import VideoReader, cpu

from extract_job import run_job, to_parquet
from serve import serve


def read(clip: str, side_px: int) -> Iterator[np.ndarray]:
    reader = VideoReader(clip, ctx=cpu(0))
    for index in range(len(reader)):
        grey = cv2.cvtColor(reader[index].asnumpy(), cv2.COLOR_RGB2GRAY)
        yield cv2.resize(grey, (side_px, side_px), interpolation=cv2.INTER_AREA)


def job(side_px: int, out: str, clip: str) -> int:
    return to_parquet(read, side_px, out, clip)


if __name__ == "__main__":
    serve(partial(run_job, job))
