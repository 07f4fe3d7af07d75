"""What is asked of every clip that decodes, before it is taken in. One file a check; all of them share one decoding.

A check lives as long as a batch. For each clip it hears ``begin``, sees every frame once, and then judges: it
returns remarks, or raises VideoError to set the clip aside. ``taken`` tells it that the clip went in.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

from pipelines import video
from pipelines.errors import VideoError
from pipelines.video import Frame
from pipelines.workspace import Workspace


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A clip that decoded to its end."""

    video_id: str
    patient_id: str  # the pseudonym
    label: str
    split: str  # of this patient: recorded, or asked for by the sender; empty while undecided
    path: Path  # the private copy that was hashed
    frames: int
    size_px: tuple[int, int]  # height, width


@dataclass(frozen=True, kw_only=True)
class Remark:
    """Worth a person's look; the clip is taken in all the same. Machines match on ``code``."""

    code: str
    note: str
    beside: str = ""  # a patient_id: this patient must come to the same side of the split

    def as_json(self) -> dict[str, str]:
        return asdict(self)


class ClipCheck(Protocol):
    """Looks at the clips of one batch, one after another."""

    def begin(self) -> None: ...

    def see(self, frame: Frame) -> None: ...

    def judge(self, candidate: Candidate) -> Iterable[Remark]: ...

    def taken(self, candidate: Candidate) -> None: ...


CHECKS: tuple[Callable[[Workspace], ClipCheck], ...] = ()
"""Made anew for every batch; asked in this order."""


def for_batch(workspace: Workspace) -> list[ClipCheck]:
    return [make(workspace) for make in CHECKS]


def decode(path: Path, checks: Sequence[ClipCheck]) -> tuple[int, tuple[int, int]]:
    """Number of frames and (height, width), every frame shown to every check on the way.

    VideoError when the clip does not decode to its end.
    """
    for check in checks:
        check.begin()
    frames, size_px = 0, (0, 0)
    for frame in video.read_frames(path):
        frames, size_px = frames + 1, (int(frame.luma_HW.shape[0]), int(frame.luma_HW.shape[1]))
        for check in checks:
            check.see(frame)
    if frames < 2:
        raise VideoError("too_few_frames", f"The video has {frames} frame.", "Export the whole clip, not a still.")
    return frames, size_px


def judge(candidate: Candidate, checks: Sequence[ClipCheck]) -> list[Remark]:
    """What all checks remark; VideoError from the first that sets the clip aside."""
    return [remark for check in checks for remark in check.judge(candidate)]
