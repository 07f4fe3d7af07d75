"""Is a registered version what its lineage record says? Record, package, registry and commit side by side."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq

from pipelines import lineage, versioning
from pipelines.errors import LclscError
from pipelines.evidence import verify
from pipelines.evidence.check import Check, Problem, checked, differing
from pipelines.evidence.commit import Commit
from pipelines.evidence.ledger_events import registered
from pipelines.files import md5_bytes, sha256_bytes
from pipelines.ledger import Entry
from pipelines.package import SOURCE_TAR, training_videos
from pipelines.params import flat
from pipelines.registry import COMPLETE, Registry, Run, Version

WEIGHTS = "artifacts/model/model.safetensors"
CARD = "artifacts/model/model.json"


def check_version(
    store: Registry, version: Version, commit: Commit, package: Path, entries: Sequence[Entry]
) -> Iterator[Check]:
    """All but the data: the record's copies, the package's files, parameters, weights, metrics."""
    name = f"version {version.version}"
    content = _bytes(package / lineage.FILE)
    run = store.run(version.run_id)
    yield from checked("lineage_copies", name, _copy_problems(store, version, run, content, entries))
    record = _parsed(content)
    yield from checked("lineage_record", name, _record_problems(record))
    if record is None:
        return
    yield from checked("package", name, _package_problems(record, package))
    yield from checked("weights", name, _weight_problems(version, run, record, commit, package))
    yield from checked("commit", f"commit {commit.sha[:12]}", _commit_problems(record, commit))
    yield from checked("params", name, _param_problems(run, record, commit))
    yield from checked("metrics", name, _metric_problems(record, commit))
    yield from checked(
        "registration", name, differing(f"{name}, tag {COMPLETE}", "complete", version.tags.get(COMPLETE))
    )


def check_withdrawn(name: str, patients: Iterable[str], withdrawn: Collection[str]) -> Iterator[Check]:
    """No version may rest on a patient whose consent was taken back."""
    problems = [
        Problem(object=f"patient {patient}", expected="not withdrawn", found=f"used by {name}")
        for patient in sorted({patient for patient in patients if patient in withdrawn})
    ]
    yield from checked("withdrawn", name, problems)


def _bytes(path: Path) -> bytes | None:
    return path.read_bytes() if path.is_file() else None


def _parsed(content: bytes | None) -> dict[str, Any] | None:
    try:
        record = json.loads(content or b"")
    except ValueError:
        return None
    return record if isinstance(record, dict) else None


def _copy_problems(
    store: Registry, version: Version, run: Run, content: bytes | None, entries: Sequence[Entry]
) -> Iterator[Problem]:
    """Run, package, tags and ledger name one record. The ledger's word is the yardstick: it is chained."""
    name = f"version {version.version}"
    events = registered(entries, version.version)
    if len(events) != 1:
        yield Problem(object=f"ledger, {name}", expected="one event registered", found=f"{len(events)} events")
    expected = events[-1].data["lineage_sha256"] if events else version.tags.get("lineage_sha256")
    if events:
        yield from differing(f"tag git_commit of {name}", events[-1].data["commit"], version.tags.get("git_commit"))
    copies = {
        f"tag lineage_sha256 of {name}": version.tags.get("lineage_sha256"),
        f"tag lineage_sha256 of its model {version.model_id}": store.model_tags(version).get("lineage_sha256"),
        f"tag lineage_sha256 of its run {run.run_id}": run.tags.get("lineage_sha256"),
        f"{lineage.FILE} in the package": _sha256(content),
        f"{lineage.FILE} kept with the run": _sha256(store.artifact(run, lineage.FILE)),
    }
    for where, found in copies.items():
        yield from differing(where, expected, found)


def _sha256(content: bytes | None) -> str | None:
    return None if content is None else sha256_bytes(content)


def _record_problems(record: dict[str, Any] | None) -> Iterator[Problem]:
    if record is None:
        yield Problem(object=lineage.FILE, expected="a lineage record", found="no JSON object")
        return
    try:
        lineage.check(record)
    except LclscError as error:
        yield Problem(object=lineage.FILE, expected=f"valid under {lineage.SCHEMA}", found=error.cause)


def _package_problems(record: dict[str, Any], package: Path) -> Iterator[Problem]:
    """The package's files are the recorded ones, and so is the code archive among them."""
    for finding in verify.record_findings(record, package):
        yield Problem(object=f"package {package.parent.name}", expected="as recorded", found=finding)
    if not (package / lineage.SUMS).exists():
        found = f"built before packages had {lineage.SUMS}"
        yield Problem(object="MLmodel", expected="listed", found=found, unknown=True)
    archive = _bytes(package / SOURCE_TAR)
    yield from differing(SOURCE_TAR, record["source_tar_sha256"], _sha256(archive))


def _weight_problems(
    version: Version, run: Run, record: dict[str, Any], commit: Commit, package: Path
) -> Iterator[Problem]:
    """Served weights are DVC's output of the commit, the recorded ones, and those of every tag."""
    expected = record["weights_sha256"]
    yield from differing(f"package, {WEIGHTS}", expected, _sha256(_bytes(package / WEIGHTS)))
    yield from differing(
        f"tag weights_sha256 of version {version.version}", expected, version.tags.get("weights_sha256")
    )
    yield from differing(f"tag weights_sha256 of run {run.run_id}", expected, run.tags.get("weights_sha256"))
    for inner, path in (("models/model.safetensors", WEIGHTS), ("models/model.json", CARD)):
        recorded = commit.outs.get(inner, {}).get("md5")
        content = _bytes(package / path)
        yield from differing(f"package, {path}, against dvc.lock", recorded, content and md5_bytes(content))


def _commit_problems(record: dict[str, Any], commit: Commit) -> Iterator[Problem]:
    """The commit's files are the recorded inputs."""
    yield from differing("git_commit", record["git_commit"], commit.sha)
    if not versioning.is_held(commit.workspace, commit.sha):
        expected = "in the history of HEAD, a branch or a tag"
        yield Problem(object=f"commit {commit.sha[:12]}", expected=expected, found="in none: git will drop it")
    if record["dvc_lock"] != commit.lock:
        yield Problem(
            object="dvc.lock", expected="as recorded", found=_first_difference(record["dvc_lock"], commit.lock)
        )
    for path, key in (("manifest.csv", "manifest_sha256"), ("splits.csv", "splits_sha256")):
        yield from differing(path, record["data"][key], _sha256(commit.read(path)))
    videos: dict[str, list[str]] = {"test": []}
    for row in commit.tables:
        videos.setdefault(row["split"], []).append(row["video_id"])
    if commit.tables:
        manifest_sha256, splits_sha256 = (record["data"][key] for key in ("manifest_sha256", "splits_sha256"))
        found = lineage.data_section(manifest_sha256, splits_sha256, videos)
        yield from differing("root over all video ids", record["data"]["root_sha256"], found["root_sha256"])


def _first_difference(expected: Any, found: Any, path: str = "") -> str:
    """Where two parsed documents part, in words."""
    if isinstance(expected, dict) and isinstance(found, dict):
        for key in sorted(expected.keys() | found.keys()):
            if expected.get(key) != found.get(key):
                return _first_difference(expected.get(key), found.get(key), f"{path}/{key}")
    return f"{path or '/'} is {str(found)[:80]}, not {str(expected)[:80]}"


def _param_problems(run: Run, record: dict[str, Any], commit: Commit) -> Iterator[Problem]:
    """params.yaml of the commit, the record and MLflow's run say the same."""
    document = commit.params
    for section, values in record["params"].items():
        if values != document.get(section):
            found = _first_difference(values, document.get(section))
            yield Problem(object=f"params.yaml: {section}", expected="as recorded", found=found)
    committed = flat({section: document.get(section, {}) for section in record["params"]})
    expected = {name: str(value) for name, value in committed.items()}
    for name in sorted(expected.keys() | run.params.keys()):
        yield from differing(f"parameter {name} of run {run.run_id}", expected.get(name), run.params.get(name))


def _metric_problems(record: dict[str, Any], commit: Commit) -> Iterator[Problem]:
    """The recorded figures are those of the commit's evaluation, whose predictions give the same again."""
    report, predictions = commit.output("reports/evaluate.json"), commit.output("reports/predictions.parquet")
    if report is None:
        yield Problem(object="reports/evaluate.json", expected="readable", found="no intact copy", unknown=True)
        return
    figures = json.loads(report)["metrics"]
    for name in sorted(record["metrics"].keys() | figures.keys()):
        yield from differing(f"metric {name}", record["metrics"].get(name), figures.get(name))
    if predictions is not None:
        yield from differing("macro_f1 from predictions.parquet", figures["macro_f1"], _macro_f1(predictions))


def _macro_f1(content: bytes) -> float:
    from pipelines import metrics

    columns = ["label", "predicted", "keep"]
    table: pd.DataFrame = pq.read_table(io.BytesIO(content), columns=columns).to_pandas()
    kept = table[table.keep]
    classes = sorted({*kept.label, *kept.predicted})
    return float(metrics.macro_f1(metrics.confusion(list(kept.label), list(kept.predicted), classes)))


def videos_of(package: Path, commit: Commit) -> dict[str, str]:
    """video -> patient, of everything a version was fitted, calibrated or tested on.

    A list in the package that cannot be read is reported by ``package``; the tables hold the same videos.
    """
    listed: frozenset[str] = frozenset()
    with contextlib.suppress(OSError, ValueError, TypeError, AttributeError):
        listed = training_videos(package)
    used = {row["video_id"] for row in commit.tables}
    return {video: commit.patients[video] for video in sorted(listed | used) if video in commit.patients}
