"""The alias history: which version was champion and challenger when, read from the ledger's lines.

A *decision* (``approved``, ``rollback_ordered``) lists the moves it asks for; the gate's verdict (``gated``)
asks for a challenger. Each move is written three times: intended, carried out in the registry, done. Pure
functions of the entries; who moves is ``alias_moves``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from pipelines.ledger import Entry

ALIASES = ("champion", "challenger")
"""Those that are promoted to; any other is its setter's own affair."""

INTENDED = "alias_intended"
ABANDONED = "alias_abandoned"
PUT_BACK = "alias_put_back"
"""Undoes in the registry what no line of the ledger asked for: no move of the history."""
MOVES = frozenset({"alias_set", "alias_removed", "promoted", "rolled_back"})
DECISIONS = frozenset({"approved", "rollback_ordered"})
PROMOTER_NAMED = "promoter_named"


@dataclass(frozen=True, kw_only=True)
class Move:
    """One alias from one version to another; None where there is none."""

    alias: str
    before: str | None
    after: str | None
    decision: int | None  # line of the ledger that asked for it

    @classmethod
    def of(cls, data: dict[str, Any], decision: int | None = None) -> Move:
        return cls(alias=data["alias"], before=data["from"], after=data["to"], decision=data.get("decision", decision))

    def as_json(self) -> dict[str, Any]:
        """As the ledger holds it."""
        asked = {} if self.decision is None else {"decision": self.decision}
        return {"alias": self.alias, "from": self.before, "to": self.after} | asked

    @property
    def subject(self) -> str:
        return f"version {self.after if self.after is not None else self.before}"


def last_words(entries: Iterable[Entry]) -> dict[str, str]:
    """alias -> version, as the finished moves leave it."""
    words: dict[str, str | None] = {}
    for entry in entries:
        if entry.event in MOVES:
            words[entry.data["alias"]] = entry.data["to"]
    return {alias: version for alias, version in words.items() if version is not None}


def open_moves(entries: Iterable[Entry]) -> list[Move]:
    """Moves that were decided or intended, and neither done nor abandoned, in order."""
    waiting: dict[Move, None] = {}
    for entry in entries:
        if entry.event in DECISIONS:
            waiting |= {Move.of(data, entry.seq): None for data in entry.data["moves"]}
        elif entry.event == INTENDED:
            waiting.setdefault(Move.of(entry.data))
        elif entry.event in MOVES | {ABANDONED}:
            waiting.pop(Move.of(entry.data), None)
    return list(waiting)


def breaks(entries: Iterable[Entry]) -> Iterator[tuple[Entry, str | None]]:
    """Finished moves that do not start where the one before ended, with where that was."""
    words: dict[str, str | None] = {}
    for entry in entries:
        if entry.event in MOVES:
            move = Move.of(entry.data)
            if move.before != words.get(move.alias):
                yield entry, words.get(move.alias)
            words[move.alias] = move.after


def promoter(entries: Sequence[Entry]) -> str | None:
    """The clone that moves the aliases, as it noted when it first did."""
    return next((entry.subject for entry in reversed(entries) if entry.event == PROMOTER_NAMED), None)


def former_champions(entries: Iterable[Entry]) -> list[str]:
    """Versions a rollback may go back to, nearest first; a rollback takes away what it went back over."""
    line: list[str] = []
    for entry in entries:
        if entry.event in MOVES and entry.data["alias"] == "champion" and entry.data["to"] is not None:
            version = entry.data["to"]
            if entry.event == "rolled_back" and version in line:
                while line[-1] != version:
                    line.pop()
            elif not line or line[-1] != version:
                line.append(version)
    return [version for version in dict.fromkeys(reversed(line)) if version != line[-1]]


def were_champion(entries: Iterable[Entry]) -> set[str]:
    """Every version that ever was."""
    moves = (entry for entry in entries if entry.event in MOVES and entry.data["alias"] == "champion")
    return {entry.data["to"] for entry in moves} - {None}


def verdict_on(entries: Sequence[Entry], version: str) -> Entry | None:
    """The gate's newest word on a version."""
    found = (entry for entry in reversed(entries) if entry.event == "gated" and entry.subject == f"version {version}")
    return next(found, None)


def verdict_without_effect(entries: Sequence[Entry]) -> Entry | None:
    """The last word of the gate, where its writer was killed before the alias that follows from it.

    A word beside a champion who has left meanwhile asks for nothing.
    """
    moving = MOVES | DECISIONS | {INTENDED, ABANDONED}
    last = next((entry for entry in reversed(entries) if entry.event in moving | {"gated"}), None)
    if last is None or last.event != "gated":
        return None
    words, version = last_words(entries), last.subject.removeprefix("version ")
    if last.data["verdict"] == "refused":
        return last if words.get("challenger") == version else None
    is_stale = last.data["champion"] != words.get("champion")
    return None if is_stale or version in (words.get("challenger"), words.get("champion")) else last
