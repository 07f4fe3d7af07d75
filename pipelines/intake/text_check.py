"""Text inside the field of view at intake: a remark, for a person to look at. Names may not stay in a picture."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pipelines.intake.candidate import Candidate, Remark
from pipelines.video.burned_in_text import TextFinder
from pipelines.video.frame import Frame
from pipelines.workspace import Workspace


class Look:
    """In the child: how many letters stand in a row."""

    def __init__(self) -> None:
        self.finder = TextFinder()

    def see(self, frame: Frame) -> None:
        self.finder.see(frame)

    def summary(self) -> int:
        return self.finder.letters()


class Judge:
    """No quarantine: on small phantoms too many clips without text have something like it."""

    def __init__(self, workspace: Workspace) -> None:
        pass

    def judge(self, candidate: Candidate, summary: Any) -> Iterable[Remark]:
        note = f"Something like {summary} letters stands still inside the field of view. Is a name burned in?"
        return [Remark(code="text_in_picture", note=note)] if summary else []

    def taken(self, candidate: Candidate, summary: Any) -> None:
        pass
