"""The clause on what may change without a new assessment: inside or outside what was agreed on beforehand.

Follows the parts of a predetermined change control plan (FDA, 2024): data sources, frozen architecture, ranges.
Its floors on performance are the gate's other clauses.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import Any

from pipelines.gate.clause import Clause, nothing_found
from pipelines.gate.contestant import Contestant
from pipelines.manifest import Video
from pipelines.params import EnvelopeParams, flat


def clause(
    envelope: EnvelopeParams, challenger: Contestant, champion: Contestant | None, videos: Mapping[str, Video]
) -> Clause:
    problems = list(_source_problems(envelope, challenger, videos))
    mine = flat(challenger.params)
    problems += _range_problems(envelope, mine)
    problems += _unknown_frozen(envelope, mine)
    changed = []
    if champion is not None:
        theirs = flat(champion.params)
        changed = sorted(name for name in mine.keys() | theirs.keys() if mine.get(name) != theirs.get(name))
        problems += _frozen_problems(envelope, theirs, mine, changed)
    against = f" {len(changed)} parameters changed: {', '.join(changed)}." if changed else ""
    found = nothing_found("envelope", problems, f"Inside.{against or ' No parameter changed.'}")
    return replace(found, note=f"Outside: {found.note}") if problems else found


def is_set(envelope: EnvelopeParams) -> bool:
    return bool(envelope.sites or envelope.domains or envelope.frozen or envelope.ranges)


def _source_problems(envelope: EnvelopeParams, one: Contestant, videos: Mapping[str, Video]) -> Iterator[str]:
    seen = [videos[video] for video in one.training_videos & videos.keys()]
    for kind, allowed in (("site", envelope.sites), ("domain", envelope.domains)):
        strangers = sorted({str(getattr(video, kind)) for video in seen} - set(allowed)) if allowed else []
        if strangers:
            yield f"trained on the {kind} {', '.join(name or 'unnamed' for name in strangers)}"


def _range_problems(envelope: EnvelopeParams, mine: Mapping[str, Any]) -> Iterator[str]:
    for name, (low, high) in sorted(envelope.ranges.items()):
        value = mine.get(name)
        if not isinstance(value, (int, float)) or not low <= value <= high:
            yield f"{name} is {value}, allowed are {low:g} to {high:g}"


def _unknown_frozen(envelope: EnvelopeParams, mine: Mapping[str, Any]) -> Iterator[str]:
    """A mistyped name would freeze nothing, and be green for ever."""
    for pattern in envelope.frozen:
        if not any(fnmatchcase(name, pattern) for name in mine):
            yield f"{pattern} is frozen and names no recorded parameter"


def _frozen_problems(
    envelope: EnvelopeParams, theirs: Mapping[str, Any], mine: Mapping[str, Any], changed: list[str]
) -> Iterator[str]:
    for name in changed:
        frozen = any(fnmatchcase(name, pattern) for pattern in envelope.frozen)
        if frozen and name not in envelope.ranges:
            yield f"{name} is frozen and went from {theirs.get(name)} to {mine.get(name)}"
