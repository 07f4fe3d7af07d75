"""PyAV as its cookbook reads a video: decode, to grey, shrink with OpenCV's area filter."""

from collections.abc import Iterator
from functools import partial

import av
import cv2
import numpy as np

from extract_job import run_job, to_parquet
from serve import serve


def read(clip: str, side_px: int) -> Iterator[np.ndarray]:
    with av.open(clip) as container:
        for frame in container.decode(video=0):
            yield cv2.resize(frame.to_ndarray(format="gray"), (side_px, side_px), interpolation=cv2.INTER_AREA)


def job(side_px: int, out: str, clip: str) -> int:
    return to_parquet(read, side_px, out, clip)


if __name__ == "__main__":
    serve(partial(run_job, job))
