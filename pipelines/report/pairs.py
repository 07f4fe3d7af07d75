"""Champion and challenger on the same frames: where one is right and the other wrong, and what each looked at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from pipelines.report.facts import Pick, scored
from pipelines.workspace import Workspace

GAINED, LOST, SAME = "gained", "lost", "same"
MOST = {GAINED: 4, LOST: 4, SAME: 2}


def picks(workspace: Workspace, champion: pd.DataFrame) -> dict[str, list[tuple[Pick, Pick]]]:
    """change -> (champion's, challenger's) word on frames: the surest mistakes first, one a video.

    ``champion``: its scores, with video_id, frame_index, predicted, probabilities {class: p} and reject.
    """
    rows: list[dict[Any, Any]] = champion.to_dict("records")
    theirs = {(row["video_id"], int(row["frame_index"])): row for row in rows}
    pairs = [
        (_champions(row, theirs[row["video_id"], row["frame_index"]]), Pick.of(row))
        for row in scored(workspace)
        if (row["video_id"], row["frame_index"]) in theirs
    ]
    return {
        GAINED: _first(pairs, lambda before, after: not before.correct and after.correct, by=0)[: MOST[GAINED]],
        LOST: _first(pairs, lambda before, after: before.correct and not after.correct, by=1)[: MOST[LOST]],
        SAME: _first(pairs, lambda before, after: before.correct and after.correct, by=1)[: MOST[SAME]],
    }


def _champions(row: Mapping[str, Any], said: Mapping[str, Any]) -> Pick:
    return Pick(
        video_id=row["video_id"],
        frame_index=row["frame_index"],
        label=row["label"],
        predicted=said["predicted"],
        probability=max(said["probabilities"].values()),
        reject=bool(said["reject"]),
    )


def _first(pairs: Sequence[tuple[Pick, Pick]], keep: Any, *, by: int) -> list[tuple[Pick, Pick]]:
    """One pair a video: where the ``by``-th of the two is surest."""
    kept = sorted(
        (pair for pair in pairs if keep(*pair)),
        key=lambda pair: (-pair[by].probability, pair[by].video_id, pair[by].frame_index),
    )
    found: dict[str, tuple[Pick, Pick]] = {}
    for pair in kept:
        found.setdefault(pair[by].video_id, pair)
    return list(found.values())
