"""torchcodec as its tutorial reads a video: the decoder as an iterable of RGB frames."""

from collections.abc import Iterator
from functools import partial

import cv2
import numpy as np
from torchcodec.decoders import VideoDecoder

from extract_job import run_job, to_parquet
from serve import serve


def read(clip: str, side_px: int) -> Iterator[np.ndarray]:
    for frame_CHW in VideoDecoder(clip, seek_mode="approximate"):
        grey = cv2.cvtColor(frame_CHW.permute(1, 2, 0).numpy(), cv2.COLOR_RGB2GRAY)
        yield cv2.resize(grey, (side_px, side_px), interpolation=cv2.INTER_AREA)


def job(side_px: int, out: str, clip: str) -> int:
    return to_parquet(read, side_px, out, clip)


if __name__ == "__main__":
    serve(partial(run_job, job))
