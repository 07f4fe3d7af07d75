"""Register: a built model becomes a version with its lineage, is judged, and gets its alias.

Reads   models/, reports/, the tables, dvc.lock
Writes  MLflow (run, model, version, tags, alias), ledger.jsonl, reports/gate.json, reports/report.html
Params  register, promote

A list of find-or-create steps: killed anywhere, the next call goes on at the first missing one.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipelines import (
    exchange,
    frames,
    gate,
    keys,
    ledger,
    lineage,
    manifest,
    package,
    promotion,
    publish,
    registry,
    versioning,
    workers,
)
from pipelines import params as parameters
from pipelines.errors import PromotionError
from pipelines.evidence import withdrawals
from pipelines.files import (
    canonical_json,
    read_json,
    sha256_file,
    temporary_folder,
)
from pipelines.params import Params
from pipelines.registry import Registry, Submission, Version
from pipelines.workspace import Workspace, template_file

SHAPING = ("split", "extract", "train", "evaluate")
"""Sections of params.yaml that shape a model."""

JUDGEMENTS = 3
"""How often a version is judged when the champion keeps moving."""


def start_run(workspace: Workspace, key: str, reason: str) -> str:
    """The MLflow run of this key, found or made before training so that losses can be watched live."""
    store = registry.connect(workspace)
    store.require_kept()
    store.require_promoter()  # hours before the gate would ask
    run_id = store.find_or_create_run(key, f"retrain {_data_version(workspace)}")
    store.resume_run(run_id)
    store.set_run_tags(run_id, {"reason": reason})
    return run_id


def fail_run(workspace: Workspace, run_id: str) -> None:
    """A retrain that ended in an error must not look as if it still ran."""
    registry.connect(workspace).finish_run(run_id, "FAILED")


def run(workspace: Workspace, params: Params, *, commit: str, durations: Mapping[str, float]) -> dict[str, Any]:
    """Everything from built files to an alias. Returns status, version, aliases, metrics, gate."""
    store = registry.connect(workspace)
    version, is_new = _find_or_register(workspace, params, store, commit)
    key = keys.retrain_key(workspace)
    decision = _judge(workspace, params, store, version, key)
    version = store.version(version.version) or version
    publish.run(workspace, params, store, version, decision, durations)
    versioning.commit(workspace, ("ledger.jsonl",), f"Register version {version.version}")
    exchange.push(workspace)
    store.set_version_tag(version.version, registry.KEY, key)  # the two last: before them nothing is up to date
    store.complete(version.version)
    evaluation = read_json(workspace.stage_report("evaluate"))
    return {
        "status": "refused" if decision["verdict"] == "refused" else "registered" if is_new else "up_to_date",
        "version": version.version,
        "aliases": list(version.aliases),
        "metrics": evaluation["metrics"],
        "intervals": evaluation["intervals"],
        "champion": decision["champion"],
        "gate": {name: decision[name] for name in ("verdict", "clauses")},
    }


def promote(workspace: Workspace, params: Params, name: str, *, to_champion: bool) -> dict[str, Any]:
    """Judge a version, by number or @alias, again and set its alias; ``gate/1``, its SHA-256, and the aliases of now.

    ``champion`` moves only where the policy approves by itself, or where there is none yet.
    """
    versioning.require_kept_lines(workspace)
    store = registry.connect(workspace)
    version = promotion.find(store, name)
    if not version.complete:
        raise promotion.incomplete(version)
    number = version.version
    decision = _judge(
        workspace, params, store, version, version.tags[registry.KEY], actor="promote", to_champion=to_champion
    )
    now = store.version(number) or version
    loads = all(clause["name"] != "loads" for clause in decision["clauses"])
    has_page = loads and publish.is_built_here(workspace, store, now)
    page = publish.run(workspace, params, store, now, decision, {}) if has_page else None
    versioning.commit(workspace, ("ledger.jsonl",), f"Judge version {number}")
    exchange.push(workspace)
    seen = {"gate_sha256": now.tags.get(promotion.GATE_SHA_TAG), "page": page and str(page)}
    return decision | {"version": number, "aliases": list(now.aliases)} | seen


# --- the version -----------------------------------------------------------------------------------


def _find_or_register(workspace: Workspace, params: Params, store: Registry, commit: str) -> tuple[Version, bool]:
    """The version, and whether it is a new one: equal weights are a new evaluation of the one that has them."""
    key = keys.retrain_key(workspace)
    same = _with_these_weights(workspace, store)
    if same and same.complete and same.tags[registry.KEY] != key and publish.is_built_here(workspace, store, same):
        return _evaluated_again(workspace, store, same, key), False
    is_new = store.find_version(key) is None
    with temporary_folder(workspace.state) as folder:
        sealed = _package(workspace, params, store, commit, folder / "package")
        submission = Submission(
            key=key,
            train_key=keys.train_key(workspace, workers=workers.worker_count(params.train.logical_shards)),
            data_version=_data_version(workspace),
            package=sealed,
            params={name: parameters.section(workspace.params, name) for name in SHAPING},
            history=read_json(workspace.stage_report("train"))["history"],
            artifacts=[workspace.stage_report(name) for name in ("extract", "train", "evaluate")],
        )
        version = store.register(submission)
    _note_registered(workspace, version)
    return version, is_new


def _with_these_weights(workspace: Workspace, store: Registry) -> Version | None:
    """The newest, unless it saw a patient who withdrew: it stays marked, and the evaluation without them is another."""
    same = store.find_version_by_weights(sha256_file(workspace.weights))
    marked = withdrawals.of(ledger.read(workspace.ledger)).versions
    return None if same is None or same.version in marked else same


def _evaluated_again(workspace: Workspace, store: Registry, version: Version, key: str) -> Version:
    """New test patients alone: the version stays, its newest evaluation and key are noted on it."""
    metrics = read_json(workspace.stage_report("evaluate"))["metrics"]
    data_version = _data_version(workspace)
    run_id = store.find_or_create_run(key, f"evaluate {data_version}")
    store.log_metrics(run_id, metrics)
    store.set_version_tag(version.version, "metrics", _compact(metrics))
    store.set_version_tag(version.version, "data_version", data_version)
    _note_once(
        workspace,
        "evaluated",
        f"version {version.version}",
        {"retrain_key": key, "data_version": data_version, "metrics": metrics},
    )
    store.finish_run(run_id)
    return store.version(version.version) or version


def _package(workspace: Workspace, params: Params, store: Registry, commit: str, out: Path) -> Path:
    """The model package with its lineage record inside."""
    train, test = frames.read_table(workspace.train_table), frames.read_table(workspace.test_table)
    videos = {str(split): sorted(group.video_id) for split, group in train.groupby("split")}
    package.build_package(
        workspace,
        out,
        requirements=package.serving_requirements(template_file("requirements.lock")),
        videos=videos,
    )
    versions = [version for version in store.versions() if version.complete]
    record = lineage.build(
        git_commit=commit,
        dvc_lock=versioning.lock_file(workspace),
        manifest_sha256=sha256_file(workspace.manifest),
        splits_sha256=sha256_file(workspace.splits),
        video_ids=videos | {"test": sorted(test.video_id)},
        params={name: parameters.section(workspace.params, name) for name in SHAPING},
        environment=lineage.environment(threads=params.train.threads_per_shard, gpu=workers.gpu_name()),
        seeds={"train": params.train.seed, "evaluate": params.evaluate.seed},
        logical_shards=params.train.logical_shards,
        restarts=_restarts(workspace),
        weights_sha256=sha256_file(workspace.weights),
        package_sha256=lineage.tree_digest(out),
        source_tar_sha256=sha256_file(out / package.SOURCE_TAR),
        metrics=read_json(workspace.stage_report("evaluate"))["metrics"],
        previous_sha256=versions[-1].tags["lineage_sha256"] if versions else None,
    )
    lineage.write(out, record)
    return out


def _restarts(workspace: Workspace) -> int | None:
    """How often this training went on from a checkpoint; None where the weights were not trained in this clone."""
    if not workspace.training_record.exists():
        return None
    found = read_json(workspace.training_record)
    return int(found["restarts"]) if found["weights_sha256"] == sha256_file(workspace.weights) else None


def _note_registered(workspace: Workspace, version: Version) -> None:
    data: dict[str, Any] = {
        "version": version.version,
        "lineage_sha256": version.tags["lineage_sha256"],
        "commit": version.tags["git_commit"],
    }
    known = (entry.data for entry in ledger.read(workspace.ledger) if entry.event == "registered")
    if not any(data.items() <= entry.items() for entry in known):  # somebody else may take a registration up again
        data["trained_by"] = promotion.acting_user(workspace)
        ledger.append(workspace, actor="retrain", event="registered", subject=f"version {version.version}", data=data)


# --- the decision ----------------------------------------------------------------------------------


def _judge(
    workspace: Workspace,
    params: Params,
    store: Registry,
    version: Version,
    key: str,
    *,
    actor: str = "retrain",
    to_champion: bool = True,
) -> dict[str, Any]:
    """Beside the champion on the same unseen patients, and the alias that follows from it.

    Judged again where somebody moved the champion meanwhile.
    """
    for tries_left in reversed(range(JUDGEMENTS)):
        decision = gate.judge(workspace, params, store, version)
        evidence = promotion.note_evidence(workspace, store, version, decision, key=key, actor=actor)
        try:
            promotion.propose(
                workspace, store, version.version, evidence, params.promote, actor=actor, to_champion=to_champion
            )
        except PromotionError:
            if not tries_left:
                raise
        else:
            break
    return decision


def _note_once(workspace: Workspace, event: str, subject: str, data: dict[str, Any]) -> None:
    """A ledger event, unless the very same is there: a resumed registration repeats nothing."""
    known = ((entry.event, entry.subject, entry.data) for entry in ledger.read(workspace.ledger))
    if (event, subject, data) not in known:
        ledger.append(workspace, actor="retrain", event=event, subject=subject, data=data)


def _data_version(workspace: Workspace) -> str:
    return manifest.data_version(workspace.manifest, workspace.splits)


def _compact(metrics: Mapping[str, Any]) -> str:
    return canonical_json(dict(metrics)).decode()
