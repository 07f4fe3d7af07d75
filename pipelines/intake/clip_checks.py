"""What is asked of every clip before it is taken in. One file a check; all of them share one decoding.

A check has two halves. Its *look* lives in the child that decodes: it sees every frame once and sums up in JSON.
Its *judge* lives in intake for as long as a batch: it weighs the sum against what else is known and returns
remarks, or raises VideoError to set the clip aside.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

from pipelines.errors import VideoError
from pipelines.intake import near_copy_check, text_check
from pipelines.intake.candidate import Candidate, Check, Look, Remark
from pipelines.params import IntakeParams
from pipelines.video import clips
from pipelines.video.isolation import Limits, run_isolated
from pipelines.workspace import Workspace

NEVER_WAIVED = frozenset({"near_copy_across_split"})
"""Codes of judges that ``intake --release`` cannot overrule: patients never move."""

WALL_TO_CPU = 5
"""A busy machine may give a process so small a share of the time; beyond it, it hangs."""

CHECKS: tuple[Check, ...] = (
    Check(near_copy_check.Look, near_copy_check.Judge),
    Check(text_check.Look, text_check.Judge),
)
"""Asked in this order."""


class Panel:
    """The checks of one batch."""

    def __init__(self, workspace: Workspace) -> None:
        self.checks = CHECKS
        self.judges = [check.judge(workspace) for check in self.checks]

    def decode(self, path: Path, params: IntakeParams, *, waived: str = "") -> Survey:
        """Decode to the end, in a child with limits; VideoError when that does not work."""
        looks = [f"{check.look.__module__}:{check.look.__qualname__}" for check in self.checks]
        frames, height_px, width_px, summaries = run_isolated(
            survey, path, looks, asdict(_caps(params, waived)), limits=limits_of(params, waived)
        )
        return Survey(frames, (height_px, width_px), summaries)

    def judge(self, candidate: Candidate, seen: Survey, *, waived: str = "") -> list[Remark]:
        """What all judges remark; VideoError from the first that sets the clip aside, ``waived`` codes left out."""
        remarks: list[Remark] = []
        for judge, summary in zip(self.judges, seen.summaries, strict=True):
            try:
                remarks += judge.judge(candidate, summary)
            except VideoError as error:
                if error.code != waived or waived in NEVER_WAIVED:
                    raise
        return remarks

    def taken(self, candidate: Candidate, seen: Survey) -> None:
        for judge, summary in zip(self.judges, seen.summaries, strict=True):
            judge.taken(candidate, summary)


class Survey(NamedTuple):
    """What came of decoding a clip once."""

    frames: int
    size_px: tuple[int, int]  # height, width
    summaries: list[Any]  # of each check's look


def _caps(params: IntakeParams, waived: str) -> clips.Caps:
    """Of one clip; a cap that a person waived is none."""
    caps = clips.Caps(
        pixels=params.max_pixels, frames=params.max_frames, minutes=params.max_minutes, bytes=params.max_bytes
    )
    name = waived.removeprefix("over_")
    return replace(caps, **{name: math.inf}) if hasattr(caps, name) else caps


def shape_of(path: Path, params: IntakeParams) -> tuple[int, int, int]:
    """(frames, height, width) of a clip that is in already: its caps were asked when it came."""
    no_caps = asdict(clips.Caps())
    frames, height_px, width_px, _ = run_isolated(survey, path, [], no_caps, limits=limits_of(params))
    return frames, height_px, width_px


def limits_of(params: IntakeParams, waived: str = "") -> Limits:
    """Of the process that decodes; ten times as much where a person said so."""
    seconds = params.max_decode_seconds * (10 if waived == "over_decode_time" else 1)
    memory_mib = params.max_memory_mib * (10 if waived == "over_memory" else 1)
    return Limits(memory_mib=memory_mib, cpu_seconds=seconds, wall_seconds=WALL_TO_CPU * seconds)


def survey(path: str, looks: Sequence[str], caps: dict[str, float]) -> tuple[int, int, int, list[Any]]:
    """Runs in the child: (frames, height, width, summaries), every frame shown to every look on the way."""
    watching: list[Look] = [_named(name)() for name in looks]
    frames, size_px = 0, (0, 0)
    for frame in clips.read_frames(Path(path), caps=clips.Caps(**caps)):
        frames, size_px = frames + 1, (int(frame.luma_HW.shape[0]), int(frame.luma_HW.shape[1]))
        for look in watching:
            look.see(frame)
    if frames < 2:
        raise VideoError("too_few_frames", f"The video has {frames} frame.", "Export the whole clip, not a still.")
    return frames, *size_px, [look.summary() for look in watching]


def _named(name: str) -> Callable[[], Look]:
    module, qualified = name.split(":")
    found: Callable[[], Look] = getattr(importlib.import_module(module), qualified)
    return found
