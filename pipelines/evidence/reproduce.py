"""Reproduce: build a registered version again, from raw video, in a place where nothing can be reused.

Reads   git at the recorded commit, source.tar of the version's package, videos and masks by their hashes
Writes  a temporary workspace, removed afterwards unless it is asked for; with ``record`` one ledger event

The code that runs is the version's own, so a model outlives upgrades of this one.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import uuid
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from pyarrow.fs import FileSystem

from pipelines import ledger, lineage, object_stores, progress, registry, versioning
from pipelines.errors import OutsideSystemError, StageError, WrongUseError
from pipelines.evidence import withdrawals
from pipelines.evidence.audit import find_target, head
from pipelines.evidence.commit import Commit, StoredObject
from pipelines.evidence.ledger_events import registered, whole_ledger
from pipelines.evidence.version_checks import videos_of
from pipelines.files import read_json, remove_dead_temporaries, sha256_file, temporary_folder, write_bytes
from pipelines.ledger import Entry
from pipelines.package import SOURCE_TAR, source_archive
from pipelines.registry import Version
from pipelines.workspace import Workspace, private_folder, template_file

Start = Literal["extract", "train"]
STARTS = ("extract", "train")
METRIC_TOLERANCE = 0.02
"""Absolute, on every figure between 0 and 1: other processors round differently and train to other weights."""


@dataclass(frozen=True, kw_only=True)
class Reproduction:
    """What came out. ``steps`` ran; ``artefacts`` are the outputs that differ, in pipeline order."""

    version: str
    commit: str
    verdict: str  # identical, tolerance or different
    start: Start
    steps: list[str]
    frames_decoded: int
    reused: int
    compared: int
    differing: list[dict[str, str]]
    metrics: dict[str, list[float | None]] = field(default_factory=dict)  # recorded, rebuilt; where they differ
    environment: list[str] = field(default_factory=list)  # differences that were gone along with

    def as_json(self) -> dict[str, Any]:
        return {"schema": "reproduce/1"} | asdict(self)


def run(
    workspace: Workspace, name: str, *, start: Start, anyway: bool, keep: Path | None, record: bool
) -> Reproduction:
    """Rebuild version ``name`` (a number or @alias) and compare every output byte for byte."""
    with registry.read_only(workspace, head(workspace).commit.model_name) as store:
        target = find_target(workspace, store.versions() if store else [], name)
        if store is None or target.version is None:
            raise WrongUseError("no_version", f"{name} is no registered version.", "List them with `lclsc status`.")
        with store.package(target.version) as package, _place(workspace, keep) as place:
            result = _rebuild(workspace, target.version, package, place, start=start, anyway=anyway)
    if record:
        data = {"verdict": result.verdict, "from": start, "differing": [entry["path"] for entry in result.differing]}
        subject = f"version {result.version}"
        ledger.append(workspace, actor="reproduce", event="reproduced", subject=subject, data=data)
    return result


@contextlib.contextmanager
def _place(workspace: Workspace, keep: Path | None) -> Iterator[Path]:
    """A private folder for code and workspace; it holds patients' videos, so it goes when it is not asked for."""
    if keep is not None:
        if keep.exists() and any(keep.iterdir()):
            raise WrongUseError("not_empty", f"{keep} is not empty.", "Name a new or an empty folder.")
        yield private_folder(keep.absolute())
        return
    parent = private_folder(workspace.state / "reproduce")
    remove_dead_temporaries(parent)
    with temporary_folder(parent) as place:
        yield place


def _rebuild(
    workspace: Workspace, version: Version, package: Path, place: Path, *, start: Start, anyway: bool
) -> Reproduction:
    record = lineage.verify_package(package)
    entries = whole_ledger(workspace)
    _require_registered(entries, version, record)
    commit = Commit(workspace, record["git_commit"])
    _refuse_withdrawn(entries, version, videos_of(package, commit).values())
    source_archive.unpack(package / SOURCE_TAR, place / "code", sha256=record["source_tar_sha256"])
    python, environment = _python(place, record, anyway=anyway)
    clone = _clone(workspace, commit, place / "workspace")
    _fetch(commit, clone, _inputs(commit, start))
    stages = versioning.stages(clone)
    with _own_checkpoints() as storage:
        extra = {"PYTHONPATH": str(place / "code")} | storage
        steps = [stage for stage in stages[stages.index(start) :] if _run(clone, stage, python, extra)]
    return _compare(version, record, commit, clone, start=start, steps=steps, environment=environment)


def _require_registered(entries: Sequence[Entry], version: Version, record: dict[str, Any]) -> None:
    """The package's record is the one that the ledger saw registered: a package may hold together and be another's."""
    told = [entry.data["lineage_sha256"] for entry in registered(entries, version.version)]
    if told != [lineage.sha256(record)]:
        raise StageError(
            "not_as_registered",
            f"The package of version {version.version} does not hold the lineage record that the ledger names.",
            f"`lclsc audit {version.version}` says which copy differs. If it was registered from another clone, "
            "`git pull` brings the ledger up to date.",
        )


def _refuse_withdrawn(entries: Sequence[Entry], version: Version, patients: Iterable[str]) -> None:
    withdrawn = withdrawals.of(entries)
    gone = {*patients, *withdrawn.versions.get(version.version, ())} & withdrawn.patients
    if gone:
        patients = "a patient" if len(gone) == 1 else f"{len(gone)} patients"
        raise StageError(
            "withdrawn",
            f"Version {version.version} saw {patients} whose consent was withdrawn since.",
            "It can no longer be rebuilt, as it should be. Retrain without them.",
        )


# --- environment -----------------------------------------------------------------------------------


def _python(place: Path, record: dict[str, Any], *, anyway: bool) -> tuple[str, list[str]]:
    """The interpreter to run with, and in what its environment differs from the recorded one.

    Other packages than the recorded lock's: an environment is built from the lock inside source.tar.
    """
    found = lineage.environment(threads=record["environment"]["threads"], gpu=record["environment"]["gpu"])
    differing = [
        f"{key}: {record['environment'][key]} recorded, {found[key]} here"
        for key in ("python", "platform", "cpu", "lock_sha256")
        if record["environment"][key] != found[key]
    ]
    if record["environment"]["lock_sha256"] == sha256_file(template_file("requirements.lock")) or anyway:
        return sys.executable, differing
    return _built_environment(place), [line for line in differing if not line.startswith("lock_sha256")]


def _built_environment(place: Path) -> str:
    python = place / "venv" / "bin" / "python"
    for command in (
        [sys.executable, "-m", "venv", str(place / "venv")],
        [str(python), "-m", "pip", "install", "--quiet", "-r", str(place / "code" / "requirements.lock")],
    ):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise OutsideSystemError(
                "environment",
                f"The environment of the recorded lock file cannot be built: {done.stderr.strip()[-300:]}",
                "Make the package index reachable, or go on with the installed packages: --anyway.",
            )
    return str(python)


# --- workspace -------------------------------------------------------------------------------------


def _clone(workspace: Workspace, commit: Commit, root: Path) -> Workspace:
    """The recorded commit checked out alone, with an empty cache and no remote."""
    versioning.clone_at(workspace, commit.sha, root)
    return Workspace(root)


def _inputs(commit: Commit, start: Start) -> list[StoredObject]:
    """What the first stage to run reads: videos and masks, or what extraction made of them."""
    folders = ["videos", "masks"]
    if start == "train":
        folders += [out["path"] for out in commit.lock["stages"]["extract"]["outs"]]
    return [stored for stored in commit.objects if any(_is_below(stored.path, folder) for folder in folders)]


def _is_below(path: str, folder: str) -> bool:
    return path == folder or path.startswith(f"{folder}/")


def _fetch(commit: Commit, clone: Workspace, objects: list[StoredObject]) -> None:
    """Copy objects into the clone's cache, each known by its hash, and check them out."""
    target = private_folder(clone.root / ".dvc" / "cache")
    with progress.track("fetch", len(objects), "objects") as tracker:
        for stored in objects:
            content = commit.content(stored)
            if content is None:
                raise StageError(
                    "object_lost",
                    f"No intact copy of {stored.path} ({stored.md5}) is left in cache or remote.",
                    "Restore the DVC remote from a backup; `lclsc audit` lists everything that is lost.",
                )
            write_bytes(target / object_stores.place(stored.md5), content)
            tracker.advance()
    for folder in (clone.videos, clone.masks):
        private_folder(folder)
    versioning.check_out(clone, sorted({_out_of(commit, stored) for stored in objects}))


def _out_of(commit: Commit, stored: StoredObject) -> str:
    """The DVC target that an object belongs to: a pointer file, or an output of a stage."""
    out = next(path for path in commit.outs if _is_below(stored.path, path))
    return f"{out}.dvc" if f"{out}.dvc" in versioning.POINTERS else out


@contextlib.contextmanager
def _own_checkpoints() -> Iterator[dict[str, str]]:
    """On a cluster, checkpoints in a folder of their own: training would go on from the version's, and end at once.

    Without LCLSC_STORAGE they lie in the clone.
    """
    shared = os.environ.get("LCLSC_STORAGE")
    if not shared:
        yield {}
        return
    own = f"{shared.rstrip('/')}/reproduce-{uuid.uuid4().hex}"
    try:
        yield {"LCLSC_STORAGE": own}
    finally:
        files, path = FileSystem.from_uri(own)
        with contextlib.suppress(FileNotFoundError):
            files.delete_dir(path)


def _run(clone: Workspace, stage: str, python: str, extra: dict[str, str]) -> bool:
    """One stage under the version's own code; nothing may come from a cache."""
    with progress.track(stage, 1, "steps") as shown:

        def on_line(line: str) -> None:
            told = progress.parse(line)
            if told is not None:
                shown.retitle(told.total, told.unit)
                shown.update(told.done, told.note)

        return versioning.reproduce_stage(clone, stage, on_line, python=python, extra=extra, run_cache=False)


# --- comparison ------------------------------------------------------------------------------------


def _compare(
    version: Version,
    record: dict[str, Any],
    commit: Commit,
    clone: Workspace,
    *,
    start: Start,
    steps: list[str],
    environment: list[str],
) -> Reproduction:
    rebuilt = versioning.lock_file(clone)["stages"]
    pairs = [
        (out["path"], out["md5"], _md5_of(rebuilt.get(stage, {}), out["path"]))
        for stage, entry in record["dvc_lock"]["stages"].items()
        if stage in steps
        for out in entry["outs"]
    ]
    pairs.append(("the package's weights", record["weights_sha256"], sha256_file(clone.weights)))
    differing = [{"path": path, "recorded": old, "rebuilt": new} for path, old, new in pairs if old != new]
    counts = read_json(clone.state / "extract.run.json") if "extract" in steps else {"reused": 0}
    decoded = read_json(clone.stage_report("extract"))["frames"] if "extract" in steps else 0
    metrics = read_json(clone.stage_report("evaluate"))["metrics"]
    moved = {
        name: [record["metrics"].get(name), metrics.get(name)]
        for name in sorted(record["metrics"].keys() | metrics.keys())
        if record["metrics"].get(name) != metrics.get(name)
    }
    complete = not counts["reused"] and len(steps) == len(versioning.stages(clone)) - STARTS.index(start)
    return Reproduction(
        version=version.version,
        commit=commit.sha,
        verdict=_verdict(differing, moved) if complete else "different",
        start=start,
        steps=steps,
        frames_decoded=decoded,
        reused=counts["reused"],
        compared=len(pairs),
        differing=differing,
        metrics=moved,
        environment=environment,
    )


def _verdict(differing: list[dict[str, str]], metrics: dict[str, list[float | None]]) -> str:
    if not differing:
        return "identical"
    near = all(
        one is not None and two is not None and abs(one - two) <= METRIC_TOLERANCE for one, two in metrics.values()
    )
    return "tolerance" if near else "different"


def _md5_of(stage: dict[str, Any], path: str) -> str:
    return next((str(out["md5"]) for out in stage.get("outs", []) if out["path"] == path), "missing")
