"""Promotion: who becomes challenger and champion, and on which evidence. Everybody who moves an alias calls this.

Reads   the gate's verdict (ledger, tag, gate.json kept with the run), params.yaml: promote
Writes  through ``alias_moves``: ledger.jsonl and the registry's aliases; then one commit of the ledger

A decision is refused rather than made on evidence that is old, was reached under other rules or against
another champion, or differs between the places that hold it.
"""

from __future__ import annotations

import contextlib
import datetime
import os
import pwd
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from pipelines import alias_history, alias_moves, exchange, ledger, params, registry, versioning
from pipelines.alias_history import Move
from pipelines.errors import LclscError, OutsideSystemError, PromotionError, WrongUseError
from pipelines.evidence import withdrawals
from pipelines.evidence.ledger_events import registered
from pipelines.files import sha256_bytes, sha256_file, write_json
from pipelines.ledger import Entry
from pipelines.params import PromoteParams
from pipelines.registry import Registry, Version
from pipelines.workspace import Workspace

GATE_FILE = "gate.json"
GATE_TAG, GATE_SHA_TAG = "gate", "gate_sha256"


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a decision did. ``status``: approved, rolled_back, or champion_already."""

    status: str
    version: str
    before: str | None
    decision: int | None  # line of the ledger
    gate_sha256: str | None
    pushed: bool | None  # None where git has no remote

    def as_json(self) -> dict[str, Any]:
        return asdict(self) | {"error": None}


# --- the gate's word -------------------------------------------------------------------------------


def note_evidence(
    workspace: Workspace, store: Registry, version: Version, decision: Mapping[str, Any], *, key: str, actor: str
) -> Entry:
    """Note the gate's verdict, then keep gate.json with the version's run and tag it: the ledger says which counts.

    A registration that is taken up again, with the same verdict, repeats nothing.
    """
    store.require_promoter()  # evidence is the promoting workspace's: another's would take its place
    with ledger.exclusive(workspace, "registry"):
        write_json(workspace.gate_report, decision)
        data = {
            "verdict": decision["verdict"],
            "policy_sha256": decision["policy_sha256"],
            "retrain_key": key,
            "test_sha256": decision["looks"]["test_sha256"],
            "gate_sha256": sha256_file(workspace.gate_report),
            "champion": decision["champion"]["version"] if decision["champion"] else None,
        }
        word = alias_history.verdict_on(ledger.read(workspace.ledger), version.version)
        if word is None or word.data != data or version.complete:
            word = ledger.append(workspace, actor=actor, event="gated", subject=f"version {version.version}", data=data)
        keep_evidence(workspace, store, version, word)
    return word


def keep_evidence(workspace: Workspace, store: Registry, version: Version, word: Entry) -> None:
    """File and tags of a verdict, as the ledger's line has them. Only inside the ``registry`` lock."""
    store.log_artifacts(version.run_id, [workspace.gate_report])
    store.set_version_tag(version.version, GATE_TAG, word.data["verdict"])
    store.set_version_tag(version.version, GATE_SHA_TAG, word.data["gate_sha256"])


def evidence_problem(version: Version, word: Entry, kept: bytes | None) -> str | None:
    """Which place holds another verdict than the ledger's line; None where all hold the same."""
    others = {
        "the tag of the version": version.tags.get(GATE_SHA_TAG),
        "the file kept with its run": sha256_bytes(kept) if kept is not None else None,
    }
    return next((where for where, found in others.items() if found != word.data["gate_sha256"]), None)


def propose(
    workspace: Workspace,
    store: Registry,
    version: str,
    evidence: Entry,
    policy: PromoteParams,
    *,
    actor: str,
    to_champion: bool = True,
) -> None:
    """``challenger`` unless refused; ``champion`` for the first to pass, and for all that pass under ``auto``.

    ``to_champion=False`` leaves a version that passed beside a champion as its challenger even under ``auto``.

    A champion stays champion here whatever a new verdict says: taking it back is a person's decision.
    Nobody becomes champion on a verdict that is too old or was reached under other rules.
    PromotionError ``champion_moved`` where the version was judged beside another champion: judge it again.
    """
    with alias_moves.held(workspace, store, actor=actor) as aliases:
        champion, challenger = aliases.get("champion"), aliases.get("challenger")
        if champion not in (evidence.data["champion"], version):
            raise _champion_moved(version, evidence.data["champion"], champion)
        leave = _leave_challenger(aliases, version)
        verdict = evidence.data["verdict"]
        is_withdrawn = version in withdrawals.of(ledger.read(workspace.ledger)).versions
        by_policy = champion is None or (policy.approval == "auto" and to_champion)
        wins = verdict == "passed" and by_policy and not is_withdrawn and _outdated(version, evidence, policy) is None
        if champion != version and wins:
            reason = "promote.approval: auto" if policy.approval == "auto" else "the first to pass the gate"
            data = {"by": "policy", "reason": reason, "evidence": _cited(evidence)}
            alias_moves.decide(
                workspace, store, _to_champion(aliases, version), actor=actor, event="approved", data=data
            )
            return
        if champion != version and verdict != "refused":
            to_challenger = Move(alias="challenger", before=challenger, after=version, decision=evidence.seq)
            leave = [] if challenger == version else [to_challenger]
        for move in leave:
            asked = Move(alias=move.alias, before=move.before, after=move.after, decision=evidence.seq)
            alias_moves.carry_out(workspace, store, asked, actor=actor, event="gated")


# --- a person's word -------------------------------------------------------------------------------


def approve(workspace: Workspace, version: str, *, by: str, reason: str, evidence: str | None = None) -> Outcome:
    """Make the challenger champion, as ``by`` decides. PromotionError where the rules do not allow it.

    ``version`` is a number or an @alias; ``evidence`` the beginning of the SHA-256 of the gate.json that was
    looked at, where the caller knows it. Safe to repeat: what a kill left half done is finished first.
    """
    _require_words(by=by, reason=reason)
    versioning.require_kept_lines(workspace)
    policy = params.load(workspace.params).promote
    store = registry.connect(workspace)
    found = find(store, version)
    kept = store.run_artifact(found.run_id, GATE_FILE)
    person = {"by": by.strip(), "reason": reason.strip()} | acting_user(workspace)
    with _deciding(workspace, store, actor="approve") as aliases:
        champion = aliases.get("champion")
        entries = ledger.read(workspace.ledger)
        word = alias_history.verdict_on(entries, found.version)
        if champion == found.version:
            decision = None
        else:
            word = _sound(find(store, found.version), word, kept, evidence)
            _refuse_outdated(found.version, word, policy, champion)
            _refuse_person(entries, found.version, policy, person)
            _refuse_version(entries, found, aliases)
            moves = _to_champion(aliases, found.version)
            data = person | {"evidence": _cited(word)}
            decision = alias_moves.decide(workspace, store, moves, actor="approve", event="approved", data=data)
    return Outcome(
        status="approved" if decision else "champion_already",
        version=found.version,
        before=champion,
        decision=decision.seq if decision else None,
        gate_sha256=word.data.get("gate_sha256") if word else None,
        pushed=keep(workspace, f"Approve version {found.version}"),
    )


def rollback(workspace: Workspace, *, reason: str, to: str | None = None, by: str = "") -> Outcome:
    """Back to the champion before this one, or to an earlier one; never to one that saw a withdrawn patient."""
    user = acting_user(workspace)
    person = {"by": by.strip() or user["os_user"], "reason": reason.strip()} | user
    _require_words(**{name: str(person[name]) for name in ("by", "reason")})
    versioning.require_kept_lines(workspace)
    store = registry.connect(workspace)
    with _deciding(workspace, store, actor="rollback") as aliases:
        champion = aliases.get("champion")
        entries = ledger.read(workspace.ledger)
        target = _former_champion(store, entries, champion, to)
        moves = _to_champion(aliases, target)
        decision = alias_moves.decide(workspace, store, moves, actor="rollback", event="rollback_ordered", data=person)
    word = alias_history.verdict_on(entries, target)
    return Outcome(
        status="rolled_back",
        version=target,
        before=champion,
        decision=decision.seq,
        gate_sha256=word.data.get("gate_sha256") if word else None,
        pushed=keep(workspace, f"Roll back to version {target}"),
    )


@contextlib.contextmanager
def _deciding(workspace: Workspace, store: Registry, *, actor: str) -> Iterator[dict[str, str]]:
    """``held`` for a person's word. Refused or not, what a killed command left is committed and pushed."""
    try:
        with alias_moves.held(workspace, store, actor=actor) as aliases:
            yield aliases
    except LclscError:
        keep(workspace, "Finish what was cut off")
        raise


def acting_user(workspace: Workspace) -> dict[str, str | None]:
    """Whom the machine and git take the person for, beside the name they typed."""
    try:
        os_user = pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        os_user = str(os.getuid())
    return {"os_user": os_user, "git_user": versioning.git_user(workspace)}


def keep(workspace: Workspace, message: str) -> bool | None:
    """One commit of the ledger, pushed where there is a remote: True; False where it could not be pushed."""
    is_new = versioning.commit(workspace, ("ledger.jsonl",), message)
    if versioning.git_remote(workspace) is None:
        return None
    if not is_new and exchange.is_pushed(workspace):
        return True  # for nothing, no host is waited for that may be down
    try:
        exchange.push(workspace)
    except OutsideSystemError:
        return False  # the decision stands; the next push takes it along
    return True


# --- the rules -------------------------------------------------------------------------------------


def _sound(version: Version, word: Entry | None, kept: bytes | None, seen: str | None) -> Entry:
    """The gate's word, when ledger, registry and run hold the same one, and it is the one that was looked at."""
    again = f"Run `lclsc promote {version.version}` and look at its page."
    if word is None or "gate_sha256" not in word.data:
        raise PromotionError("not_judged", f"The gate has not judged version {version.version}.", again)
    expected = word.data["gate_sha256"]
    where = evidence_problem(version, word, kept)
    if where is not None:
        cause = f"The evidence of version {version.version} changed: {where} is not what the ledger names."
        raise PromotionError("evidence_changed", cause, again)
    if seen is not None and not (len(seen) >= 8 and expected.startswith(seen)):
        cause = f"Version {version.version} was judged again: its evidence is {expected[:12]}, not {seen[:12]}."
        raise PromotionError("evidence_changed", cause, "Look at the new page and decide again.")
    return word


def _refuse_outdated(version: str, word: Entry, policy: PromoteParams, champion: str | None) -> None:
    if word.data["verdict"] not in ("passed", "undecided"):
        cause = f"The gate refused version {version}."
        raise PromotionError("gate_refused", cause, "Its page says which clause; no reason can make up for it.")
    if word.data["champion"] != champion:
        raise _champion_moved(version, word.data["champion"], champion)
    outdated = _outdated(version, word, policy)
    if outdated is not None:
        raise outdated


def _outdated(version: str, word: Entry, policy: PromoteParams) -> PromotionError | None:
    """Why a verdict counts no more, by today's rules and clock."""
    again = f"Run `lclsc promote {version}` to have it judged again."
    if word.data["policy_sha256"] != policy.sha256:
        cause = f"params.yaml: promote changed since the gate judged version {version}."
        return PromotionError("policy_changed", cause, again)
    judged = datetime.datetime.strptime(word.at, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=datetime.UTC)
    days = (datetime.datetime.now(datetime.UTC) - judged).total_seconds() / 86400
    if days > policy.max_evidence_days:
        cause = f"The evidence is {days:.1f} days old; promote.max_evidence_days is {policy.max_evidence_days:g}."
        return PromotionError("evidence_too_old", cause, again)
    return None


def _refuse_person(
    entries: Sequence[Entry], version: str, policy: PromoteParams, person: Mapping[str, str | None]
) -> None:
    """Under ``four_eyes`` nobody approves what they trained, by whatever name they are known."""
    if not policy.four_eyes:
        return
    events = registered(entries, version)
    trainer = events[-1].data.get("trained_by") if events else None
    if trainer is None:
        cause = f"promote.four_eyes is set, and nobody noted who trained version {version}."
        raise PromotionError("trainer_unknown", cause, "Retrain, so that it is noted.")
    theirs = {name.casefold() for name in _names(trainer)}
    mine = {name.casefold() for name in [*_names(person), person["by"] or ""]}
    if theirs & mine:
        cause = f"promote.four_eyes is set, and {trainer['os_user']} trained version {version}."
        raise PromotionError("same_person", cause, "Let somebody else approve it, from an account of their own.")


def _names(person: Mapping[str, str | None]) -> list[str]:
    """Account, and git's ``Name <address>`` as a whole and in its parts."""
    git_user = person.get("git_user") or ""
    name, _, address = git_user.partition(" <")
    return [word for word in (person.get("os_user"), git_user, name, address.rstrip(">")) if word]


def _refuse_version(entries: Sequence[Entry], version: Version, aliases: Mapping[str, str]) -> None:
    number = version.version
    if number in withdrawals.of(entries).versions:
        cause = f"Version {number} saw a patient who withdrew."
        raise PromotionError("withdrawn", cause, "Retrain without them: `lclsc retrain`.")
    if not version.complete:
        raise incomplete(version)
    if aliases.get("challenger") != number:
        other = aliases.get("challenger")
        cause = f"Version {number} is not the challenger" + (f"; version {other} is." if other else ".")
        raise PromotionError("not_challenger", cause, f"Run `lclsc promote {number}` first.")


def _former_champion(store: Registry, entries: Sequence[Entry], champion: str | None, to: str | None) -> str:
    withdrawn = withdrawals.of(entries).versions
    nearest = alias_history.former_champions(entries)
    if to is None and not nearest:
        cause = "No version was champion before " + ("this one." if champion else "; there is none now.")
        raise PromotionError("no_former_champion", cause, "`lclsc history` shows who was.")
    target = nearest[0] if to is None else find(store, to).version
    if target == champion:
        raise PromotionError("champion_already", f"Version {target} is champion.", "Nothing was moved.")
    if target not in alias_history.were_champion(entries):
        cause = f"Version {target} never was champion."
        raise PromotionError("never_champion", cause, f"Use `lclsc approve {target}`, after `lclsc promote`.")
    if target in withdrawn:
        sound = [version for version in nearest if version not in withdrawn]
        remedy = f"Use `lclsc rollback --to {sound[0]}`." if sound else "No former champion is free of them: retrain."
        raise PromotionError("withdrawn", f"Version {target} saw a patient who withdrew.", remedy)
    find(store, target)
    return target


def find(store: Registry, name: str) -> Version:
    """A version by number or @alias."""
    for version in store.versions():
        if name == version.version or (name.startswith("@") and name[1:] in version.aliases):
            return version
    cause = f"No version is {name[1:]}." if name.startswith("@") else f"There is no version {name}."
    raise WrongUseError("no_such_version", cause, "`lclsc status` shows versions, `lclsc history` who was champion.")


def incomplete(version: Version) -> PromotionError:
    cause = f"The registration of version {version.version} is not finished."
    return PromotionError("incomplete", cause, "Run `lclsc retrain`, which finishes it.")


def _champion_moved(version: str, judged_beside: str | None, champion: str | None) -> PromotionError:
    def words(one: str | None) -> str:
        return f"version {one}" if one else "no champion"

    return PromotionError(
        "champion_moved",
        f"Version {version} was judged beside {words(judged_beside)}; meanwhile there is {words(champion)}.",
        f"Run `lclsc promote {version}` to have it judged beside the new one.",
        transient=True,
    )


def _to_champion(aliases: Mapping[str, str], version: str) -> list[Move]:
    return [
        Move(alias="champion", before=aliases.get("champion"), after=version, decision=None),
        *_leave_challenger(aliases, version),
    ]


def _leave_challenger(aliases: Mapping[str, str], version: str) -> list[Move]:
    """The champion is no challenger."""
    if aliases.get("challenger") != version:
        return []
    return [Move(alias="challenger", before=version, after=None, decision=None)]


def _cited(evidence: Entry) -> dict[str, Any]:
    """What a decision rests on, as its own line holds it."""
    cited = {name: evidence.data[name] for name in ("verdict", "gate_sha256", "policy_sha256")}
    return cited | {"line": evidence.seq}


def _require_words(*, by: str, reason: str) -> None:
    for option, value in (("--by", by), ("--reason", reason)):
        if not value.strip():
            raise WrongUseError("no_words", f"{option} is empty.", "A decision has a name and a reason.")
