"""Audit: re-hash what is really there, and say of every claim whether it holds.

Reads   everything: git, cache, remotes, artifact store, registry (a private copy), ledger
Writes  nothing; with ``record`` one ledger event

Three layers: the workspace (ledger, aliases, git), a commit's data, and a registered version, which is a
commit's data with a model on top.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from pipelines import ledger, locks, progress, registry, versioning
from pipelines.errors import LclscError, StageError, WrongUseError
from pipelines.evidence import withdrawals
from pipelines.evidence.check import DAMAGE, Check, Verdict, checked, differing, guarded, unless_moving, verdict_of
from pipelines.evidence.check import Problem as Problem
from pipelines.evidence.commit import DEFAULT_NAME, Commit, with_data
from pipelines.evidence.copy_checks import check_copies
from pipelines.evidence.data_checks import check_data
from pipelines.evidence.ledger_checks import check_aliases, check_ledger, check_marks
from pipelines.evidence.ledger_events import entries_of, registered
from pipelines.evidence.object_checks import Sample, check_objects, check_places
from pipelines.evidence.pixel_checks import check_pixels
from pipelines.evidence.registry_checks import check_registry
from pipelines.evidence.version_checks import check_version, check_withdrawn, videos_of
from pipelines.evidence.withdrawals import Withdrawn
from pipelines.ledger import Entry
from pipelines.registry import Registry, Version
from pipelines.workspace import Workspace

OWN_FILES = (*versioning.OWN_INPUTS, "dvc.lock")


@dataclass(frozen=True, kw_only=True)
class Target:
    """What is audited: a commit, and the version built from it where there is one."""

    name: str
    commit: Commit
    version: Version | None = None


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """What belongs together: the registry (None where there is none), its aliases and the ledger's entries."""

    here: Commit  # checked out
    store: Registry | None
    versions: list[Version]  # that are complete, oldest first
    entries: list[Entry]
    aliases: dict[str, str]
    marks: dict[str, str]  # tags of the model itself
    moving: bool  # somebody was at work on aliases all the while
    busy: bool  # somebody holds the workspace

    def is_moving(self) -> bool:
        """Does somebody write in the workspace, or did since this was taken?"""
        workspace = self.here.workspace
        return self.busy or _in_use(workspace) or versioning.head(workspace) != self.here.sha


@dataclass(frozen=True, kw_only=True)
class AuditReport:
    targets: list[str]
    sample: Sample
    checks: list[Check] = field(default_factory=list)

    @property
    def verdict(self) -> Verdict:
        return verdict_of(self.checks)

    def as_json(self) -> dict[str, Any]:
        return {
            "schema": "audit/1",
            "verdict": self.verdict,
            "targets": self.targets,
            "sample": {"size": self.sample.size, "seed": self.sample.seed},
            "checks": [check.as_json() for check in self.checks],
        }


def run(
    workspace: Workspace,
    names: list[str],
    *,
    everything: bool = False,
    deep: bool = False,
    sample: Sample,
    record: bool,
) -> AuditReport:
    """Audit the named targets (``@alias``, version, commit, data version; by default what serves or is newest).

    ``deep`` decodes every video again and compares its stored frames.
    """
    with ExitStack() as stack:
        snapshot = _snapshot(workspace, stack)
        targets, lost = _targets(workspace, snapshot.versions, names, everything=everything)
        checks = [*lost, *_checks(workspace, snapshot, targets, sample)]
    checks += _copy_checks(snapshot.entries, targets, sample, deep=deep)
    checks += _pixel_checks(snapshot.entries, targets) if deep else []
    report = AuditReport(targets=[target.name for target in targets], sample=sample, checks=checks)
    if record:
        failed = sorted({check.name for check in checks if check.verdict == "fail"})
        data = {"verdict": report.verdict, "targets": report.targets, "checks": len(checks), "failed": failed}
        ledger.append(workspace, actor="audit", event="audited", subject=", ".join(report.targets), data=data)
    return report


def _snapshot(workspace: Workspace, stack: ExitStack) -> Snapshot:
    """Ledger and registry between two moves of an alias; a move that does not end leaves them as they are found."""
    with ledger.held_still(workspace, "registry") as still:
        here = head(workspace).commit  # before ``busy``: who ends in between has moved it
        store = stack.enter_context(registry.read_only(workspace, _model_name(here)))
        return Snapshot(
            here=here,
            store=store,
            versions=[version for version in store.versions() if version.complete] if store else [],
            marks=store.marks() if store else {},  # before the ledger: they may speak of no line that is not read yet
            entries=entries_of(workspace),
            aliases=store.aliases() if store else {},
            moving=not still,
            busy=_in_use(workspace),
        )


def _model_name(here: Commit) -> str:
    """As last committed so that it can be read; of a commit where it cannot, ``settings`` tells."""
    with contextlib.suppress(LclscError):
        return here.model_name
    with contextlib.suppress(LclscError):  # of a git that is damaged too
        for sha in versioning.commits_touching(here.workspace, ("params.yaml",)):
            with contextlib.suppress(LclscError):
                return Commit(here.workspace, sha).model_name
    return DEFAULT_NAME


def _in_use(workspace: Workspace) -> bool:
    try:
        return locks.holder(workspace) is not None
    except OSError:
        return False  # a medium that cannot be written to holds no writer


def _checks(workspace: Workspace, snapshot: Snapshot, targets: list[Target], sample: Sample) -> Iterator[Check]:
    yield from _workspace_checks(workspace, snapshot)
    total = 3 * sum(_count(target, sample) for target in targets)
    with progress.track("audit", total, "objects") as tracker:
        for target in targets:
            yield from _target_checks(snapshot, target, sample, lambda count: tracker.advance(by=count))


def _count(target: Target, sample: Sample) -> int:
    """Objects that will be read; none where they cannot be listed, which ``objects`` tells."""
    try:
        return len(sample.of(target.commit.objects))
    except DAMAGE:
        return 0


def _copy_checks(entries: list[Entry], targets: list[Target], sample: Sample, *, deep: bool) -> Iterator[Check]:
    withdrawn = withdrawals.of(entries)
    for target in targets:
        checks = check_copies(target.commit, withdrawn=withdrawn.patients, sample=sample, deep=deep)
        yield from guarded("patients_disjoint", target.name, checks)


def _pixel_checks(entries: list[Entry], targets: list[Target]) -> Iterator[Check]:
    withdrawn = withdrawals.of(entries)
    for target in targets:
        checks = check_pixels(target.commit, withdrawn=withdrawn.patients)
        yield from guarded("pixels", target.name, checks)


def _workspace_checks(workspace: Workspace, snapshot: Snapshot) -> Iterator[Check]:
    entries, moving = snapshot.entries, snapshot.moving
    yield from guarded("ledger_chain", "ledger.jsonl", check_ledger(workspace))
    yield from guarded("aliases", "the registry's aliases", check_aliases(entries, snapshot.aliases, moving=moving))
    yield from guarded("git_objects", "the repository", _check_git(workspace))
    yield from guarded("settings", "params.yaml", _check_settings(snapshot.here))
    yield from guarded("clean", "tables, parameters, code digests", _check_clean(workspace, snapshot))
    if snapshot.versions:
        marks = check_marks(entries, snapshot.marks, moving=moving)
        yield from guarded("ledger_anchored", "the registered model's tags", marks)
    if snapshot.store:
        unnoted = checked("versions_noted", "versions in the registry", _unnoted(snapshot.versions, entries))
        yield from guarded("versions_noted", "versions in the registry", unnoted)


def _check_git(workspace: Workspace) -> Iterator[Check]:
    damage = versioning.damaged_git_objects(workspace)
    problems = (Problem(object="git", expected="whole", found=line) for line in damage)
    yield from checked("git_objects", "the repository", problems)


def _check_settings(here: Commit) -> Iterator[Check]:
    """An audit finds the registry by the committed name of the model."""
    yield Check(name="settings", verdict="pass", object=f"params.yaml, model {here.model_name}")


def _check_clean(workspace: Workspace, snapshot: Snapshot) -> Iterator[Check]:
    changed = versioning.changed_files(workspace, OWN_FILES)
    edits = (Problem(object=path, expected="as committed", found="changed") for path in changed)
    yield from checked("clean", "tables, parameters, code digests", unless_moving(edits, snapshot.is_moving))


def _unnoted(versions: list[Version], entries: list[Entry]) -> Iterator[Problem]:
    """The ledger and the registry list the same versions: none appeared or vanished behind its back."""
    noted = {entry.data["version"] for entry in entries if entry.event == "registered"}
    present = {version.version for version in versions}
    for number in sorted(noted | present, key=lambda number: (len(number), number)):
        yield from differing(f"version {number}, in the registry", number in noted, number in present)


def _target_checks(
    snapshot: Snapshot, target: Target, sample: Sample, advance: Callable[[int], None]
) -> Iterator[Check]:
    store, entries, moving = snapshot.store, snapshot.entries, snapshot.is_moving
    withdrawn = withdrawals.of(entries)
    objects = check_objects(target.commit, sample=sample, gone=withdrawn.objects, advance=advance)
    yield from guarded("objects", target.name, objects)
    places = check_places(
        target.commit, snapshot.here, sample=sample, gone=withdrawn.objects, moving=moving, advance=advance
    )
    yield from guarded("objects_in_place", target.name, places)
    yield from check_target(store, target, entries, withdrawn)
    if store and target.version:
        checks = check_registry(store, target.version, target.commit, entries, moving=moving)
        yield from guarded("registry", target.name, checks)


def check_target(store: Registry | None, target: Target, entries: list[Entry], withdrawn: Withdrawn) -> Iterator[Check]:
    """All of a target but its objects, whose bytes take the time."""
    commit, version = target.commit, target.version
    yield from guarded("data", target.name, check_data(commit, withdrawn=withdrawn.patients))
    if store and version:
        yield from guarded("version", target.name, _check_package(store, version, commit, entries, withdrawn))
    else:
        yield from check_withdrawn(target.name, commit.patients.values(), withdrawn.patients)


def _check_package(
    store: Registry, version: Version, commit: Commit, entries: list[Entry], withdrawn: Withdrawn
) -> Iterator[Check]:
    name = f"version {version.version}"
    with store.package(version) as package:
        yield from guarded("version", name, check_version(store, version, commit, package, entries))
        seen = {*videos_of(package, commit).values(), *withdrawn.versions.get(version.version, ())}
    yield from check_withdrawn(name, seen, withdrawn.patients)


# --- what is meant ---------------------------------------------------------------------------------


def _targets(
    workspace: Workspace, versions: list[Version], names: list[str], *, everything: bool
) -> tuple[list[Target], list[Check]]:
    """What is meant, and a failed check for each version whose commit nobody can tell."""
    serving = [version for version in versions if "champion" in version.aliases] or versions[-1:]
    chosen = versions if everything else [] if names else serving
    named = [] if everything else names
    wanted: list[Callable[[], Target]] = [
        *(partial(target_of, workspace, version) for version in chosen),
        *(partial(find_target, workspace, versions, name) for name in named),
    ]
    targets, lost = [], []
    for find in wanted or [partial(head, workspace)]:
        try:
            targets.append(find())
        except StageError as error:
            lost.append(Check(name="commit", verdict="fail", object="git_commit", expected="named", found=error.cause))
    return targets, lost


def find_target(workspace: Workspace, versions: list[Version], name: str) -> Target:
    """A version number or @alias, a data version (12 hex digits), or anything git calls a commit."""
    for version in versions:
        if name == version.version or name.removeprefix("@") in version.aliases:
            return target_of(workspace, version)
    if not name.startswith("@"):
        if len(name) == 12:
            commit = with_data(workspace, name)
            if commit is not None:
                return Target(name=f"data version {name}", commit=commit)
        sha = versioning.find_commit(workspace, name)
        if sha is not None:
            return Target(name=f"commit {sha[:12]}", commit=Commit(workspace, sha))
    raise WrongUseError(
        "no_such_target",
        f"{name} is no version, alias, data version or commit of this workspace.",
        "List versions with `lclsc status`, commits with `git log`.",
    )


def target_of(workspace: Workspace, version: Version) -> Target:
    """Where the tag is lost, which ``lineage_copies`` tells, the ledger knows the commit."""
    name = f"version {version.version}"
    sha = version.tags.get("git_commit") or next(
        (entry.data["commit"] for entry in reversed(registered(entries_of(workspace), version.version))), None
    )
    if sha is None:
        cause = f"Neither the tag git_commit of {name} nor the ledger says what it was built from."
        raise StageError("no_commit", cause, "Set the tag to what lineage.json in its package says.")
    return Target(name=name, commit=Commit(workspace, sha), version=version)


def head(workspace: Workspace) -> Target:
    sha = versioning.head(workspace)
    return Target(name=f"commit {sha[:12]}", commit=Commit(workspace, sha))
