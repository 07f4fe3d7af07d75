"""Repair of promotions: finish what a killed promote, approve, rollback or retrain left half done.

Reads   ledger.jsonl, the registry, reports/gate.json
Writes  aliases, tags and gate.json of the registry as the ledger has them; missing lines of the ledger, and its commit

Four things can be open: a move of an alias, a verdict that no alias follows, evidence that is not kept where the
ledger says, and lines of the ledger that git does not hold. Beside them an alias may have been moved behind the ledger.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

from pipelines import alias_history, alias_moves, ledger, locks, params, promotion, registry, versioning
from pipelines.alias_history import ABANDONED, Move
from pipelines.errors import StageError
from pipelines.files import sha256_file
from pipelines.ledger import Entry
from pipelines.registry import Registry, Version
from pipelines.workspace import Workspace

ACTOR = "doctor"


def open_ends(workspace: Workspace) -> list[str]:
    """What is half done, in words. Writes nothing; what somebody is at work on is not told."""
    name = params.load(workspace.params).register_.name
    versioning.require_kept_lines(workspace)
    found: list[str] = []
    with ledger.held_still(workspace, "registry") as still, registry.read_only(workspace, name) as store:
        if still and store is not None and store.is_promoter():
            entries = ledger.read(workspace.ledger)
            found += [f"{_words(move)} is half done" for move in alias_history.open_moves(entries)]
            found += _strayed(workspace, store, entries)
            found += [f"the evidence of version {one.version} is not whole" for one in _half_kept(store, entries)]
    if _is_idle(workspace):
        word = alias_history.verdict_without_effect(ledger.read(workspace.ledger))
        found += [f"{word.subject} was judged, and no alias follows"] if word else []
        changed = versioning.changed_files(workspace, ("ledger.jsonl",)) if workspace.ledger.exists() else []
        found += ["no commit holds the last lines of ledger.jsonl"] if changed else []
    return found


def run(workspace: Workspace) -> list[str]:
    """Finish it; what was done, in words. Only under the workspace lock. StageError for what needs a person."""
    versioning.require_kept_lines(workspace)
    store = registry.connect(workspace)
    store.require_promoter()
    store.require_kept()
    with ledger.exclusive(workspace, "registry"):
        alias_moves.name_promoter(workspace, store, actor=ACTOR)
        settled = alias_moves.settle(workspace, store, actor=ACTOR)
        done = [f"{_words(move)}: {'given up' if end == ABANDONED else 'finished'}" for move, end in settled]
        done += alias_moves.put_back(workspace, store, actor=ACTOR)
        entries = ledger.read(workspace.ledger)
        lost = [
            version for version in _half_kept(store, entries) if not _keep_again(workspace, store, entries, version)
        ]
    done += _act_on_verdict(workspace, store, lost)
    promotion.keep(workspace, "Repair")
    if lost:
        numbers = ", ".join(version.version for version in lost)
        remedy = " and ".join(f"`lclsc promote {version.version}`" for version in lost)
        raise StageError("evidence_lost", f"The evidence of version {numbers} is nowhere any more.", f"Run {remedy}.")
    return done


def _strayed(workspace: Workspace, store: Registry, entries: Sequence[Entry]) -> Iterator[str]:
    moving = {move.alias for move in alias_history.open_moves(entries)}
    for alias, (said, found) in alias_moves.differences(workspace, store).items():
        if alias not in moving:
            yield f"{alias}: the ledger says {said or 'none'}, the registry has {found or 'none'}"


def _half_kept(store: Registry, entries: Sequence[Entry]) -> Iterator[Version]:
    """Of the challenger and the version judged last: those whose evidence is not what the ledger names."""
    last = next((entry.subject.removeprefix("version ") for entry in reversed(entries) if entry.event == "gated"), None)
    for number in {alias_history.last_words(entries).get("challenger"), last} - {None}:
        version, word = store.version(str(number)), alias_history.verdict_on(entries, str(number))
        if version and word and "gate_sha256" in word.data:
            kept = store.run_artifact(version.run_id, promotion.GATE_FILE)
            if promotion.evidence_problem(version, word, kept):
                yield version


def _keep_again(workspace: Workspace, store: Registry, entries: Sequence[Entry], version: Version) -> bool:
    """From the file that was written before the ledger's line; the line's hash says whether it still is that one."""
    word = alias_history.verdict_on(entries, version.version)
    report = workspace.gate_report
    if word is None or not report.exists() or sha256_file(report) != word.data["gate_sha256"]:
        return False
    promotion.keep_evidence(workspace, store, version, word)
    return True


def _act_on_verdict(workspace: Workspace, store: Registry, lost: Sequence[Version]) -> list[str]:
    """As its writer would have: a retrain lets the policy make a champion; whether `promote` was to is not known.

    No alias follows from evidence that is lost.
    """
    word = alias_history.verdict_without_effect(ledger.read(workspace.ledger))
    if word is None:
        return []
    if word.data["verdict"] != "refused" and word.subject in {f"version {one.version}" for one in lost}:
        return []
    version, policy = word.subject.removeprefix("version "), params.load(workspace.params).promote
    promotion.propose(workspace, store, version, word, policy, actor=ACTOR, to_champion=word.actor == "retrain")
    return [f"{word.subject}: the alias that follows from its verdict"]


def _is_idle(workspace: Workspace) -> bool:
    holder = locks.holder(workspace)
    return holder is None or holder.get("pid") == os.getpid()


def _words(move: Move) -> str:
    return f"{move.alias} from {move.before or 'none'} to {move.after or 'none'}"
