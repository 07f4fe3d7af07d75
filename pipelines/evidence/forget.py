"""Forget: a patient's consent is withdrawn. Their pixels go, everywhere; what was made with them is marked.

Reads   the trace index, git history
Writes  ledger event ``withdrawn``; manifest.csv, provenance.csv, videos/, masks/ (committed); shards; DVC's cache
        and remotes; report pages and sheets of versions that saw the patient; quarantine/; .state/

Every store is asked first: nothing is changed where one does not answer, or where it cannot be known which
objects are the patient's. Then the event is written and says what will be deleted, so a forget that was killed
is finished by doing it again. Pseudonyms in git's history and in the ledger stay: without the key they lead to
nobody, and without them nobody could show that the patient was forgotten.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from pipelines import cluster, exchange, ledger, manifest, prediction_log, progress, registry, staging, versioning
from pipelines.evidence import retention, trace, withdrawals
from pipelines.evidence.audit import head
from pipelines.evidence.commit import WorkingTree
from pipelines.evidence.ledger_events import data_versions, whole_ledger
from pipelines.evidence.withdrawals import Withdrawn
from pipelines.files import remove
from pipelines.intake import near_copy_check, quarantine
from pipelines.registry import Registry
from pipelines.shards import ShardIndex
from pipelines.workspace import Workspace

WITH_PIXELS = ("scores", "observed", "ray", "samples", "reproduce", "packages")
"""Folders of .state that hold frames, maps of them, or what was computed frame by frame; all can be made again."""


@dataclass(frozen=True, kw_only=True)
class Forgotten:
    patient_id: str
    videos: list[str]
    versions: list[str]
    """Model versions that saw the patient, in any split."""
    aliases: dict[str, str]
    """Aliases that point at one of them."""
    objects: int
    """Objects of the patient's that cache and remotes are rid of."""

    def as_json(self) -> dict[str, Any]:
        return {"schema": "forget/1"} | asdict(self)


def run(workspace: Workspace, patient: str, *, logs: Sequence[Path] = ()) -> Forgotten:
    """Forget ``patient`` (a pseudonym or its beginning). Holds the workspace (the caller has the lock).

    ``logs`` are folders of prediction logs that ``serve --log`` keeps elsewhere: the workspace does not know them.
    """
    staging.take_back(workspace)
    exchange.take_over_if_there(workspace)
    staging.require_untouched(workspace)
    found = trace.run(workspace, "patient", patient)
    patient_id = found["id"]
    videos = {video["video_id"] for video in found["videos"]}
    versions = [version["version"] for version in found["versions"]]
    known = withdrawals.of(whole_ledger(workspace))
    stores = retention.stores(workspace, versioning.remotes(workspace))
    named = retention.named(chain(retention.commits(workspace), [WorkingTree(workspace)]))
    retention.refuse_unnamed(named, stores)
    purged = retention.of_videos(named.objects, videos)
    _note(workspace, patient_id, known, videos, versions, {stored.md5 for stored in purged})
    _leave_tables(workspace, patient_id, videos)
    _remove_files(workspace, videos, logs)
    _remove_set_aside(workspace, patient_id)
    versioning.commit(workspace, (*versioning.OWN_INPUTS, "ledger.jsonl"), f"Withdraw {patient_id}")
    with progress.track("forget", len(purged), "objects") as tracker:
        removed = retention.remove(stores, purged, lambda count: tracker.advance(by=count))
    aliases = _mark(workspace, patient_id, versions)
    versioning.push_inputs(workspace)
    exchange.push(workspace)
    return Forgotten(patient_id=patient_id, videos=sorted(videos), versions=versions, aliases=aliases, objects=removed)


def _note(
    workspace: Workspace, patient_id: str, known: Withdrawn, videos: set[str], versions: list[str], purged: set[str]
) -> None:
    """Once; a call that finishes a killed one, or finds more, adds only what is new."""
    kept = [row for row in manifest.read_videos(workspace.manifest) if row.patient_id != patient_id]
    version = manifest.version_of(kept, manifest.read_splits(workspace.splits))
    is_told = version in data_versions(ledger.read(workspace.ledger))
    if patient_id in known.patients and purged <= known.objects and is_told:
        return
    data: dict[str, Any] = {"videos": sorted(videos), "versions": versions, "purged": sorted(purged - known.objects)}
    data["data_version"] = version
    ledger.append(workspace, actor="forget", event="withdrawn", subject=patient_id, data=data)


def _leave_tables(workspace: Workspace, patient_id: str, videos: set[str]) -> None:
    """The split stays in splits.csv, to which patients are only added; intake takes in no more of theirs."""
    rows = manifest.read_videos(workspace.manifest)
    manifest.write_videos(workspace.manifest, [row for row in rows if row.patient_id != patient_id])
    origins = manifest.read_provenance(workspace.provenance)
    manifest.write_provenance(workspace.provenance, [row for row in origins if row.video_id not in videos])


def _remove_files(workspace: Workspace, videos: set[str], logs: Sequence[Path]) -> None:
    """Videos, masks and shards in their places, and everything derived that may show them."""
    folders = (workspace.videos, workspace.masks, workspace.frames, workspace.mask_frames)
    for path in (path for folder in folders if folder.exists() for path in folder.iterdir()):
        if path.name.split(".")[0].split("-")[0] in videos:
            remove(path)
    for path in (*(workspace.state / name for name in WITH_PIXELS), cluster.samples(workspace)):
        remove(path)
    for path in (workspace.state / "runner").glob("lclsc-*"):  # the rest of it is a running flow server's own
        remove(path)
    near_copy_check.Store(workspace).forget(videos)
    for log in (workspace.served, *logs):
        prediction_log.remove(log, videos)
    for path in (workspace.report_page, workspace.saliency_picture):
        remove(path)
    index = ShardIndex(workspace)
    index.save({workspace.root / name for name in index.entries if (workspace.root / name).exists()})
    versioning.track(workspace, "videos", remote="identified")
    versioning.track(workspace, "masks")


def _remove_set_aside(workspace: Workspace, patient_id: str) -> None:
    for record in quarantine.listing(workspace):
        if record.row.get("patient_id") == patient_id:
            quarantine.discard(workspace, record)


def _mark(workspace: Workspace, patient_id: str, versions: Iterable[str]) -> dict[str, str]:
    """Tag the versions, take their pictures away, and say which aliases point at one."""
    numbers = list(versions)
    if not numbers:
        return {}
    store = registry.connect(workspace, head(workspace).commit.model_name)
    for number in numbers:
        version = store.version(number)
        if version is not None:
            patients = sorted({*filter(None, version.tags.get("withdrawn", "").split(",")), patient_id})
            store.set_version_tag(number, "withdrawn", ",".join(patients))
            _remove_pictures(store, version.run_id)
    if store.is_promoter():
        store.mark_ledger(ledger.read(workspace.ledger)[-1])
    return {alias: number for alias, number in sorted(store.aliases().items()) if number in numbers}


def _remove_pictures(store: Registry, run_id: str) -> None:
    for name in withdrawals.PICTURES:
        store.delete_artifact(run_id, name)
