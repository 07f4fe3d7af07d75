"""Small clips to break: drawn frames in the containers that hospitals send."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
from av.codec.context import Flags

SIDE_PX = 64
FRAMES = 8
CONTAINERS = {
    "mp4": ("libx264", "yuv420p"),
    "mov": ("mpeg4", "yuv420p"),
    "mkv": ("ffv1", "yuv420p"),
    "avi": ("mjpeg", "yuvj420p"),
    "webm": ("libvpx", "yuv420p"),
}


def picture(index: int, side_px: int = SIDE_PX, seed: int = 0) -> np.ndarray:
    """A bright disc with grain that moves, on black."""
    rows, columns = np.mgrid[:side_px, :side_px]
    inside = (rows - side_px / 2) ** 2 + (columns - side_px / 2) ** 2 < (0.45 * side_px) ** 2
    grain = np.random.default_rng([seed, index]).integers(60, 200, (side_px, side_px))
    return np.where(inside, grain, 0).astype(np.uint8)


def write(path: Path, *, frames: int = FRAMES, fps: int = 8, seed: int = 0, side_px: int = SIDE_PX) -> bytes:
    """A clip in the container that its suffix names; the same bytes for the same arguments."""
    codec, pixels = CONTAINERS[path.suffix[1:]]
    with av.open(str(path), "w", options={"fflags": "+bitexact"}) as container:
        stream = container.add_stream(codec, rate=fps)
        stream.width = stream.height = side_px
        stream.pix_fmt = pixels
        stream.codec_context.thread_count = 1
        stream.codec_context.flags |= Flags.bitexact
        container.start_encoding()  # a header, even where no frame follows
        for index in range(frames):
            frame = av.VideoFrame.from_ndarray(picture(index, side_px, seed), format="gray").reformat(format=pixels)
            frame.pts = index
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path.read_bytes()


def write_sound(path: Path, codec: str) -> bytes:
    """A quarter of a second of a tone, and no picture."""
    tone = (8000 * np.sin(np.arange(11025) / 16)).astype(np.int16)
    with av.open(str(path), "w", options={"fflags": "+bitexact"}) as container:
        stream = container.add_stream(codec, rate=44100)
        frame = av.AudioFrame.from_ndarray(tone[None, :], format="s16", layout="mono")
        frame.sample_rate = 44100
        resampler = av.AudioResampler(format=stream.codec_context.format, layout="mono", rate=44100)
        for resampled in resampler.resample(frame):
            container.mux(stream.encode(resampled))
        container.mux(stream.encode(None))
    return path.read_bytes()


def y4m(width: int, height: int, frames: int, fps: str = "8:1", body: bytes | None = None) -> bytes:
    """Uncompressed YUV4MPEG: the header says what it likes."""
    plane = bytes(width * height) if body is None else body
    return f"YUV4MPEG2 W{width} H{height} F{fps} Ip A1:1 Cmono\n".encode() + (b"FRAME\n" + plane) * frames
