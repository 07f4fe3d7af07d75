"""The vocabulary of checks: what they look at, and what they may say."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from pipelines.video.frame import Frame
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
    other: str = ""  # the video_id that it is about, beside the clip itself

    def as_json(self) -> dict[str, str]:
        return asdict(self)


class Look(Protocol):
    """Sees one clip, in the child. Made without arguments, from a class that can be imported by name."""

    def see(self, frame: Frame) -> None: ...

    def summary(self) -> Any:
        """What the judge needs to know, as JSON."""
        ...


class Judge(Protocol):
    """Weighs the clips of one batch, one after another."""

    def judge(self, candidate: Candidate, summary: Any) -> Iterable[Remark]: ...

    def taken(self, candidate: Candidate, summary: Any) -> None:
        """The clip went in."""
        ...


class Check(NamedTuple):
    look: type[Look]
    judge: Callable[[Workspace], Judge]  # made anew for every batch
