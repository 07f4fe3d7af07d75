"""Move aliases, so that the ledger and the registry tell one history: intent, effect, done.

Reads   ledger.jsonl, the registry's aliases
Writes  both, under the ``registry`` lock, which is held from the first intent to the last done

Whoever holds the lock and finds an open move knows that its owner is dead, and finishes it first. A move that
cannot be finished, because the alias stands elsewhere or its version is gone or withdrawn, is abandoned in
the ledger. The registry has no compare-and-set of its own: before every decision both must say the same.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any

from pipelines import alias_history, ledger, versioning
from pipelines.alias_history import ABANDONED, ALIASES, INTENDED, PUT_BACK, Move, last_words, open_moves
from pipelines.errors import StageError
from pipelines.evidence import withdrawals
from pipelines.ledger import Entry
from pipelines.registry import Registry
from pipelines.workspace import Workspace


@contextlib.contextmanager
def held(workspace: Workspace, store: Registry, *, actor: str) -> Iterator[dict[str, str]]:
    """Hold the aliases still; gives alias -> version, which registry and ledger agree on."""
    store.require_promoter()
    store.require_kept()
    with ledger.exclusive(workspace, "registry"):
        name_promoter(workspace, store, actor=actor)
        settle(workspace, store, actor=actor)
        yield _agreed(workspace, store)
        if store.marks():
            store.mark_ledger(ledger.read(workspace.ledger)[-1])


def name_promoter(workspace: Workspace, store: Registry, *, actor: str) -> None:
    """This clone moves the aliases, as the model's tag says: noted once, and after each hand-over. Needs the lock."""
    own = versioning.clone_id(workspace)
    if store.marks() and alias_history.promoter(ledger.read(workspace.ledger)) != own:
        event = alias_history.PROMOTER_NAMED
        store.mark_ledger(ledger.append(workspace, actor=actor, event=event, subject=own, data={}))


def decide(
    workspace: Workspace, store: Registry, moves: Iterable[Move], *, actor: str, event: str, data: dict[str, Any]
) -> Entry:
    """Write a decision with its moves, then carry them out. Only inside ``held``."""
    listed = list(moves)
    plan = [{"alias": move.alias, "from": move.before, "to": move.after} for move in listed]
    entry = ledger.append(workspace, actor=actor, event=event, subject=listed[0].subject, data=data | {"moves": plan})
    for move in plan:
        carry_out(workspace, store, Move.of(move, entry.seq), actor=actor, event=event)
    return entry


def carry_out(workspace: Workspace, store: Registry, move: Move, *, actor: str, event: str) -> None:
    """Intent, effect, done. ``event`` is that of the decision behind the move. Only inside ``held``."""
    _note(workspace, move, actor=actor, event=INTENDED)
    _effect(store, move)
    _note(workspace, move, actor=actor, event=_done(move, event))


def settle(workspace: Workspace, store: Registry, *, actor: str) -> list[tuple[Move, str]]:
    """Finish or abandon what a killed process left open; each move with what became of it. Needs the lock."""
    entries = ledger.read(workspace.ledger)
    events = {entry.seq: entry.event for entry in entries}
    intended = {Move.of(entry.data) for entry in entries if entry.event == INTENDED}
    settled: list[tuple[Move, str]] = []
    given_up: set[int | None] = set()  # decisions whose first move cannot be made: the rest makes no sense either
    for move in open_moves(entries):
        decided_by = events.get(move.decision or 0, "gated")
        found = store.aliases().get(move.alias)
        if move.decision in given_up:
            outcome = ABANDONED
        elif found == move.after:
            outcome = _done(move, decided_by)
        elif found == move.before and _may_have(store, entries, move.after):
            if move not in intended:
                _note(workspace, move, actor=actor, event=INTENDED)
            _effect(store, move)
            outcome = _done(move, decided_by)
        else:
            outcome = ABANDONED
            given_up |= {move.decision} - {None}
        _note(workspace, move, actor=actor, event=outcome)
        settled.append((move, outcome))
    return settled


def put_back(workspace: Workspace, store: Registry, *, actor: str) -> list[str]:
    """Aliases that somebody moved behind the ledger, where the ledger has them; in words. Needs the lock.

    The ledger follows the registry in one case: a version that is gone, or saw a withdrawn patient, has no alias.
    """
    entries = ledger.read(workspace.ledger)
    told = []
    for alias, (said, found) in differences(workspace, store).items():
        if said is not None and not _may_have(store, entries, said):
            gone = Move(alias=alias, before=said, after=None, decision=None)
            carry_out(workspace, store, gone, actor=actor, event="gated")
            told.append(f"{alias}: taken from version {said}, which is gone or withdrawn")
        else:
            move = Move(alias=alias, before=found, after=said, decision=None)
            _note(workspace, move, actor=actor, event=PUT_BACK)
            _effect(store, move)
            told.append(f"{alias}: put back from {_named(found)} to {_named(said)}")
    return told


def differences(workspace: Workspace, store: Registry) -> dict[str, tuple[str | None, str | None]]:
    """alias -> (the ledger's version, the registry's), where they are not the same."""
    words, present = last_words(ledger.read(workspace.ledger)), store.aliases()
    return {
        alias: (words.get(alias), present.get(alias)) for alias in ALIASES if words.get(alias) != present.get(alias)
    }


def _agreed(workspace: Workspace, store: Registry) -> dict[str, str]:
    found = differences(workspace, store)
    if found:
        told = "; ".join(
            f"{alias}: ledger {one or 'none'}, registry {two or 'none'}" for alias, (one, two) in found.items()
        )
        raise StageError(
            "aliases_differ",
            f"Somebody moved aliases behind the ledger ({told}).",
            "Look with `lclsc history`; `lclsc doctor --repair` puts them back to what the ledger says.",
        )
    return last_words(ledger.read(workspace.ledger))


def _may_have(store: Registry, entries: list[Entry], version: str | None) -> bool:
    return version is None or (version not in withdrawals.of(entries).versions and store.version(version) is not None)


def _named(version: str | None) -> str:
    return f"version {version}" if version else "none"


def _effect(store: Registry, move: Move) -> None:
    if move.after is None:
        store.delete_alias(move.alias)
    else:
        store.set_alias(move.alias, move.after)


def _done(move: Move, event: str) -> str:
    if move.after is None:
        return "alias_removed"
    if move.alias == "champion":
        return "rolled_back" if event == "rollback_ordered" else "promoted"
    return "alias_set"


def _note(workspace: Workspace, move: Move, *, actor: str, event: str) -> None:
    ledger.append(workspace, actor=actor, event=event, subject=move.subject, data=move.as_json())
