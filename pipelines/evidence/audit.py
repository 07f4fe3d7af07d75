"""Audit: re-hash what is really there, and say of every claim whether it holds.

Reads   everything: git, cache, remotes, artifact store, registry (a private copy), ledger
Writes  nothing; with ``record`` one ledger event

Three layers: the workspace (ledger, aliases, git), a commit's data, and a registered version, which is a
commit's data with a model on top.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from pipelines import ledger, locks, progress, registry, versioning
from pipelines.errors import WrongUseError
from pipelines.evidence import withdrawals
from pipelines.evidence.check import Check, Verdict, checked, differing, guarded, verdict_of
from pipelines.evidence.check import Problem as Problem
from pipelines.evidence.commit import Commit, with_data
from pipelines.evidence.copy_checks import check_copies
from pipelines.evidence.data_checks import check_data
from pipelines.evidence.ledger_checks import check_aliases, check_ledger, check_marks, entries_of
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

    store: Registry | None
    versions: list[Version]  # that are complete, oldest first
    entries: list[Entry]
    aliases: dict[str, str]
    marks: dict[str, str]  # tags of the model itself
    moving: bool  # somebody was at work on aliases all the while
    busy: bool  # somebody holds the workspace


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
        targets = _targets(workspace, snapshot.versions, names, everything=everything)
        checks = list(_checks(workspace, snapshot, targets, sample))
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
        store = stack.enter_context(registry.read_only(workspace, head(workspace).commit.model_name))
        return Snapshot(
            store=store,
            versions=[version for version in store.versions() if version.complete] if store else [],
            marks=store.marks() if store else {},  # before the ledger: they may speak of no line that is not read yet
            entries=entries_of(workspace),
            aliases=store.aliases() if store else {},
            moving=not still,
            busy=locks.holder(workspace) is not None,
        )


def _checks(workspace: Workspace, snapshot: Snapshot, targets: list[Target], sample: Sample) -> Iterator[Check]:
    yield from _workspace_checks(workspace, snapshot)
    here = head(workspace).commit
    total = 3 * sum(len(sample.of(target.commit.objects)) for target in targets)
    with progress.track("audit", total, "objects") as tracker:
        for target in targets:
            yield from _target_checks(snapshot, target, here, sample, lambda count: tracker.advance(by=count))


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
    yield from check_ledger(workspace)
    yield from check_aliases(snapshot.entries, snapshot.aliases, moving=snapshot.moving)
    damage = versioning.damaged_git_objects(workspace)
    yield from checked(
        "git_objects", "the repository", (Problem(object="git", expected="whole", found=line) for line in damage)
    )
    changed = versioning.changed_files(workspace, OWN_FILES)
    edits = (Problem(object=path, expected="as committed", found="changed", unknown=snapshot.busy) for path in changed)
    yield from checked("clean", "tables, parameters, code digests", edits)
    if snapshot.versions:
        yield from check_marks(snapshot.entries, snapshot.marks, moving=snapshot.moving)
    if snapshot.store:
        unnoted = _unnoted(snapshot.versions, snapshot.entries)
        yield from checked("versions_noted", "versions in the registry", unnoted)


def _unnoted(versions: list[Version], entries: list[Entry]) -> Iterator[Problem]:
    """The ledger and the registry list the same versions: none appeared or vanished behind its back."""
    noted = {str(entry.data["version"]) for entry in entries if entry.event == "registered"}
    present = {version.version for version in versions}
    for number in sorted(noted | present, key=int):
        yield from differing(f"version {number}, in the registry", number in noted, number in present)


def _target_checks(
    snapshot: Snapshot, target: Target, here: Commit, sample: Sample, advance: Callable[[int], None]
) -> Iterator[Check]:
    store, entries, busy = snapshot.store, snapshot.entries, snapshot.busy
    withdrawn = withdrawals.of(entries)
    objects = check_objects(target.commit, sample=sample, gone=withdrawn.objects, advance=advance)
    yield from guarded("objects", target.name, objects)
    places = check_places(target.commit, here, sample=sample, gone=withdrawn.objects, busy=busy, advance=advance)
    yield from guarded("objects_in_place", target.name, places)
    yield from check_target(store, target, entries, withdrawn)
    if store and target.version:
        checks = check_registry(store, target.version, target.commit, entries, busy=busy)
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


def _targets(workspace: Workspace, versions: list[Version], names: list[str], *, everything: bool) -> list[Target]:
    if everything:
        return [_of_version(workspace, version) for version in versions] or [head(workspace)]
    if not names:
        serving = [version for version in versions if "champion" in version.aliases] or versions[-1:]
        return [_of_version(workspace, version) for version in serving] or [head(workspace)]
    return [find_target(workspace, versions, name) for name in names]


def find_target(workspace: Workspace, versions: list[Version], name: str) -> Target:
    """A version number or @alias, a data version (12 hex digits), or anything git calls a commit."""
    for version in versions:
        if name == version.version or name.removeprefix("@") in version.aliases:
            return _of_version(workspace, version)
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


def _of_version(workspace: Workspace, version: Version) -> Target:
    commit = Commit(workspace, version.tags["git_commit"])
    return Target(name=f"version {version.version}", commit=commit, version=version)


def head(workspace: Workspace) -> Target:
    sha = versioning.head(workspace)
    return Target(name=f"commit {sha[:12]}", commit=Commit(workspace, sha))
