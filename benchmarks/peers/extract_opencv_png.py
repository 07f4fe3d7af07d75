"""OpenCV into a folder of PNG files, as most tutorials do it."""

from functools import partial
from pathlib import Path

import cv2

from extract_job import run_job
from serve import serve


def job(side_px: int, out: str, clip: str) -> int:
    folder = Path(out) / Path(clip).stem
    folder.mkdir()
    capture, count = cv2.VideoCapture(clip), 0
    while True:
        there, frame = capture.read()
        if not there:
            return count
        grey = cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY)
        small = cv2.resize(grey, (side_px, side_px), interpolation=cv2.INTER_AREA)
        cv2.imwrite(str(folder / f"{count:06d}.png"), small)
        count += 1


if __name__ == "__main__":
    serve(partial(run_job, job))
