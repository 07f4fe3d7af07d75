"""Does what MLflow keeps beside a version say what the record, the commit and the ledger say? Tags, figures, files."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import PurePosixPath
from typing import Any

from pipelines import alias_history, keys, lineage, promotion
from pipelines.evidence import withdrawals
from pipelines.evidence.check import Check, Problem, checked, differing, unless_moving
from pipelines.evidence.commit import Commit
from pipelines.files import canonical_json, md5_bytes, sha256_bytes
from pipelines.ledger import Entry
from pipelines.registry import KEY, Registry, Run, Version

KEPT = ("reports/extract.json", "reports/train.json", "reports/evaluate.json", "reports/predictions.parquet")
"""Outputs of the pipeline of which registration keeps a copy with the run."""


def check_registry(
    store: Registry,
    version: Version,
    commit: Commit,
    entries: Sequence[Entry],
    *,
    moving: Callable[[], bool],
) -> Iterator[Check]:
    """``moving``: somebody holds the workspace, or did since the audit began, and writes here."""
    name = f"version {version.version}"
    with store.package(version) as package:
        record = lineage.read(package)
    run = store.run(version.run_id)
    again = [entry for entry in entries if entry.event == "evaluated" and entry.subject == name]
    sure = partial(unless_moving, moving=moving)
    yield from checked("tags", name, sure(_tag_problems(store, version, run, record, commit, again)))
    yield from checked("metrics_logged", name, sure(_logged_problems(run, record)))
    yield from checked("files_kept", name, sure(_kept_problems(store, run, commit, is_newest=not again)))
    yield from checked("page_kept", name, sure(_page_problems(store, version, run, entries)))
    yield from checked("gate_evidence", name, sure(_gate_problems(store, version, run, entries)))


def _tag_problems(
    store: Registry, version: Version, run: Run, record: Mapping[str, Any], commit: Commit, again: Sequence[Entry]
) -> Iterator[Problem]:
    """Every tag follows from the record and the commit; a later evaluation renews three of the version's own."""
    expected = _tags_of(record, commit)
    renewed = {} if not again else _renewed(again[-1])
    carriers = {
        f"version {version.version}": (version.tags, expected | renewed),
        f"model {version.model_id}": (store.model_tags(version), expected),
        f"run {run.run_id}": (run.tags, expected),
    }
    for carrier, (tags, wanted) in carriers.items():
        for tag, value in wanted.items():
            found = tags.get(tag)
            if found != value:
                unknown = value is None
                yield Problem(
                    object=f"tag {tag} of {carrier}",
                    expected=value or "no intact copy to tell",
                    found=found or "missing",
                    unknown=unknown,
                )


def _tags_of(record: Mapping[str, Any], commit: Commit) -> dict[str, str | None]:
    """As registration sets them; None where what a tag is made of is lost."""
    code = json.loads(commit.text("code.json") or "{}")
    table = commit.output("data/train.csv")
    params = record["params"]
    tags: dict[str, str | None] = {
        KEY: keys.retrain_key_of(
            videos=commit.outs["videos"]["md5"],
            masks=commit.outs["masks"]["md5"],
            manifest=record["data"]["manifest_sha256"],
            splits=record["data"]["splits_sha256"],
            params=params,
            code=code,
        ),
        "data_version": commit.data_version,
        "git_commit": record["git_commit"],
        "weights_sha256": record["weights_sha256"],
        "package_sha256": record["package_sha256"],
        "platform": lineage.platform_name(record),
        "metrics": canonical_json(dict(record["metrics"])).decode(),
    }
    if params["train"]["reduction"] != "ddp":  # there the number of workers is part of it, and recorded nowhere else
        known = None if table is None else sha256_bytes(table)
        key = known and keys.train_key_of(train_table=known, params=params["train"], code=code, workers=0)
        tags["train.key"] = key
    return tags


def _renewed(evaluated: Entry) -> dict[str, str | None]:
    data = evaluated.data
    metrics = canonical_json(dict(data["metrics"])).decode()
    return {KEY: data["retrain_key"], "data_version": data["data_version"], "metrics": metrics}


def _logged_problems(run: Run, record: Mapping[str, Any]) -> Iterator[Problem]:
    """The figures that MLflow's page shows. A metric without a value is not logged."""
    for metric, value in sorted(record["metrics"].items()):
        yield from differing(f"metric {metric} of run {run.run_id}", value, run.metrics.get(metric))


def _kept_problems(store: Registry, run: Run, commit: Commit, *, is_newest: bool) -> Iterator[Problem]:
    """Copies kept with the run are DVC's outputs; of a later evaluation the run keeps newer predictions."""
    for path in KEPT if is_newest else KEPT[:-1]:
        name = PurePosixPath(path).name
        content = store.artifact(run, name)
        recorded = commit.outs.get(path, {}).get("md5")
        yield from differing(f"{name} of run {run.run_id}", recorded, content and md5_bytes(content))


def _page_problems(store: Registry, version: Version, run: Run, entries: Sequence[Entry]) -> Iterator[Problem]:
    """The page and the pictures that a reviewer decided by; without those that a withdrawal took away."""
    name = f"version {version.version}"
    page = next((entry for entry in reversed(entries) if (entry.event, entry.subject) == ("published", name)), None)
    if page is None:
        yield Problem(object=f"page of {name}", expected="noted in the ledger", found="never noted", unknown=True)
        return
    gone = version.version in withdrawals.of(entry for entry in entries if entry.seq > page.seq).versions
    for file, sha256 in page.data["files"].items():
        kept = store.artifact(run, file)
        expected = None if gone and file in withdrawals.PICTURES else sha256
        yield from differing(f"{file} of run {run.run_id}", expected, kept and sha256_bytes(kept))


def _gate_problems(store: Registry, version: Version, run: Run, entries: Sequence[Entry]) -> Iterator[Problem]:
    """The gate's last word in the ledger is the one that tag and file hold."""
    word = alias_history.verdict_on(entries, version.version)
    if word is None or "gate_sha256" not in word.data:
        return
    kept = store.artifact(run, promotion.GATE_FILE)
    expected = word.data["gate_sha256"]
    yield from differing(f"{promotion.GATE_FILE} of run {run.run_id}", expected, kept and sha256_bytes(kept))
    for tag, value in ((promotion.GATE_SHA_TAG, expected), (promotion.GATE_TAG, word.data["verdict"])):
        yield from differing(f"tag {tag} of version {version.version}", value, version.tags.get(tag))
