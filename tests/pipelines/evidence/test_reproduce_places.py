"""Two rebuilds of one workspace at once do not take each other's place away; what a killed one left goes."""

from __future__ import annotations

import os

from pipelines import files
from pipelines.evidence import reproduce
from pipelines.workspace import Workspace


def test_two_rebuilds_at_once_each_keep_their_place(tracked: Workspace) -> None:
    with reproduce._place(tracked, None) as one, reproduce._place(tracked, None) as two:
        assert one != two
        assert one.exists()
    assert list((tracked.state / "reproduce").iterdir()) == []


def test_what_a_killed_rebuild_left_goes_with_the_next(tracked: Workspace) -> None:
    living = files._writer(os.getpid())
    left = tracked.state / "reproduce" / f"{files.TEMPORARY_PREFIX}{living}0-1"  # the id came round again
    left.mkdir(parents=True)
    with reproduce._place(tracked, None):
        assert not left.exists()
