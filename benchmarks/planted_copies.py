"""Near copies with a known answer: a clip, one or several things done to it, and the encoding that follows.

A plan is a tuple of KINDS in the order in which they are done; every number in it is drawn from the seed.
"""

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction

import av
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from pipelines.synth.phantom import CLASSES, phantom_video
from pipelines.video.fingerprint import Blobs, Fingerprinter
from pipelines.video.frame import Frame

KINDS = ("encode", "trim", "mirror", "turn", "crop", "scale", "rate", "gain")
Clip = NDArray[np.uint8]  # F H W
FPS = 12.0
ONE_THREAD = "threads=1:lookahead-threads=1:sliced-threads=0:cpu-independent=1"  # the same seed, the same bytes


@dataclass(frozen=True, kw_only=True)
class Source:
    """A phantom clip; ``low_snr`` dims it and adds fresh noise to every frame."""

    seed: int
    label: str
    patient: int
    video: int
    low_snr: bool
    frames: int
    size_px: int

    def draw(self) -> Clip:
        phantom = phantom_video(
            seed=self.seed,
            label=self.label,
            patient=self.patient,
            video=self.video,
            frames=self.frames,
            size_px=self.size_px,
        )
        return _dimmed(phantom.frames, self) if self.low_snr else phantom.frames

    def random(self, number: int) -> np.random.Generator:
        key = (CLASSES.index(self.label), self.patient, self.video, number)
        return np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=key))


def sources(seed: int, *, patients: int, frames: int = 72, size_px: int = 160) -> list[Source]:
    """Two videos of each patient, every third clip with a low signal-to-noise ratio."""
    cells = [(label, patient, video) for patient in range(patients) for label in CLASSES for video in (0, 1)]
    return [
        Source(seed=seed, label=label, patient=patient, video=video, low_snr=n % 3 == 2, frames=frames, size_px=size_px)
        for n, (label, patient, video) in enumerate(cells)
    ]


def plan(number: int, rng: np.random.Generator) -> tuple[str, ...]:
    """Every second plan is one kind alone; the others combine two to six."""
    if number % 2:
        return (KINDS[number // 2 % len(KINDS)],)
    chosen = set(rng.permutation(KINDS)[: int(rng.integers(2, 7))])
    return tuple(kind for kind in KINDS if kind in chosen)


def copied(clip: Clip, kinds: Sequence[str], rng: np.random.Generator) -> list[Frame]:
    """The copy as a decoder gives it back."""
    fps, crf, codec = FPS, 23, "libx264"
    for kind in kinds:
        match kind:
            case "encode":
                codec = str(rng.choice(["libx264", "mpeg4"]))
                crf = int(rng.integers(28, 36))
            case "rate":
                fps = float(rng.choice([6, 8, 10, 15, 24, 25, 30]))
                clip = clip[np.minimum(np.arange(int(len(clip) * fps / FPS)) * FPS / fps, len(clip) - 1).astype(int)]
            case _:
                clip = _done(clip, kind, rng)
    return decoded(encoded(clip, fps, crf=crf, codec=codec))


def _done(clip: Clip, kind: str, rng: np.random.Generator) -> Clip:
    frames, height, width = clip.shape
    match kind:
        case "trim":  # 2 s or more of it
            length = int(rng.uniform(2 * FPS, 0.8 * frames))
            start = int(rng.integers(frames - length))
            return clip[start : start + length]
        case "mirror":
            return np.flip(clip, int(rng.integers(1, 3)))
        case "turn":
            return np.rot90(clip, int(rng.integers(1, 4)), axes=(1, 2))
        case "crop":  # 70 to 95 % of each side is left
            rows, columns = int(height * rng.uniform(0.7, 0.95)), int(width * rng.uniform(0.7, 0.95))
            top, left = int(rng.integers(height - rows + 1)), int(rng.integers(width - columns + 1))
            return clip[:, top : top + rows, left : left + columns]
        case "scale":  # half to double, the sides up to 5 % apart
            by = float(np.exp(rng.uniform(np.log(0.5), np.log(2))))
            return _resized(clip, int(width * by * rng.uniform(0.95, 1.05)), int(height * by))
        case "gain":
            gain, gamma = float(np.exp(rng.uniform(np.log(0.5), np.log(1.8)))), rng.uniform(0.7, 1.4)
            return (255 * np.clip(clip / 255 * gain, 0, 1) ** gamma).astype(np.uint8)
    raise ValueError(f"There is no kind {kind!r}; choose from {', '.join(KINDS)}.")


def _dimmed(clip: Clip, source: Source) -> Clip:
    """A bit under half the light; noise as coarse as the fibre cores and about as strong as the tissue's contrast."""
    noise = source.random(0).standard_normal(clip.shape)
    noise = ndimage.gaussian_filter(noise, (0, source.size_px / 160, source.size_px / 160))
    dim = 0.45 * clip
    noisy = np.clip(dim + noise / noise.std() * (5 + 0.06 * dim), 0, 255)
    return np.where(clip > 0, noisy, 0).astype(np.uint8)


def _resized(clip: Clip, width: int, height: int) -> Clip:
    return np.stack([np.asarray(Image.fromarray(frame).resize((width, height))) for frame in clip])


def encoded(clip: Clip, fps: float, *, crf: int = 18, codec: str = "libx264") -> bytes:
    """An MP4 with even sides; MPEG-4 part 2 by quantiser, H.264 by constant rate factor."""
    clip = clip[:, : clip.shape[1] // 2 * 2, : clip.shape[2] // 2 * 2]
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream(codec, rate=Fraction(fps).limit_denominator(1000))
        stream.width, stream.height, stream.pix_fmt = clip.shape[2], clip.shape[1], "yuv420p"
        quality = (
            {"crf": str(crf), "preset": "fast", "x264-params": ONE_THREAD}
            if codec == "libx264"
            else {"qmin": "6", "qmax": "12"}
        )
        stream.options = quality
        stream.codec_context.thread_count = 1
        for frame in clip:
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="gray")
            container.mux(stream.encode(picture.reformat(format="yuv420p")))
        container.mux(stream.encode(None))
    return file.getvalue()


def decoded(content: bytes) -> list[Frame]:
    return list(_frames(content))


def _frames(content: bytes) -> Iterator[Frame]:
    with av.open(io.BytesIO(content)) as container:
        for index, frame in enumerate(container.decode(video=0)):
            seconds = float(frame.pts * frame.time_base)
            yield Frame(index=index, pts_seconds=seconds, luma_HW=frame.to_ndarray(format="gray"))


def blobs_of(frames: Sequence[Frame]) -> Blobs:
    fingerprinter = Fingerprinter()
    for frame in frames:
        fingerprinter.see(frame)
    return fingerprinter.blobs()
