"""New data or parameters in; a registered challenger out, or the reason there is none.

Stages are DVC's: each task runs ``dvc repro --single-item``, so the lock file is the truth of what ran.
Prefect says when, retries what is transient, and shows what happened. Its result cache stays off.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from prefect import Task, flow, task
from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_run_logger
from prefect.utilities.timeout import timeout

from flows import console, notices, planning
from flows.options import open_workspace
from pipelines import cluster, exchange, locks, manifest, params, progress, status, versioning
from pipelines.errors import LclscError, OutsideSystemError
from pipelines.files import read_json, write_json
from pipelines.redaction import redact
from pipelines.workspace import Workspace

if TYPE_CHECKING:
    from pipelines.registry import Registry

# `pipelines.register` brings torch, which an idle retrain must not pay for: it is imported where work is.

RETRY_SECONDS = [5.0, 30.0]


class _LateError(TimeoutError):
    """The flow's own limit. A bucket that times out raises a TimeoutError too."""


@flow(name="retrain", persist_result=False, log_prints=False, on_crashed=[notices.of_crash])
def retrain(
    workspace: Path,
    reason: str = "manual",
    hand_edits: Literal["commit", "refuse"] = "commit",
    limit_hours: float | None = None,
    wait_seconds: float = 2.0,
) -> dict[str, Any]:
    """Bring ``workspace`` up to date; returns the ``retrain/1`` report.

    ``hand_edits``: what to do about a params.yaml or dvc.yaml that was changed and not committed.
    ``wait_seconds``: for another writer of the workspace, such as an intake, to end.
    """
    place = open_workspace(workspace)
    try:
        limit = timeout(None if limit_hours is None else limit_hours * 3600, timeout_exc_type=_LateError)
        with limit, locks.one_writer(place, wait_seconds=wait_seconds):
            report = _bring_up_to_date(place, reason, hand_edits)
    except Exception as raised:
        is_late = limit_hours is not None and isinstance(raised, _LateError)
        error = _out_of_time(limit_hours) if is_late else raised
        notices.of_failure("retrain", error, place.root.name)
        console.say_served(f"retrain  failed: {error}")
        raise error from None
    notices.of_retrain(report, place.root.name)
    console.say_served(f"retrain  {report['status']}: version {report['version']} {' '.join(report['aliases'])}")
    return report


def _bring_up_to_date(place: Workspace, reason: str, hand_edits: str) -> dict[str, Any]:
    if hand_edits == "refuse":
        planning.refuse_open_edits(place)
    planning.record_inputs(place)
    plan = planning.make(place)
    planning.refuse_untracked_changes(plan)
    if plan.up_to_date:
        return planning.up_to_date(plan)
    return _build(place, plan, reason)


def _build(place: Workspace, plan: planning.Plan, reason: str) -> dict[str, Any]:
    from pipelines import register

    _copy_inputs(place)
    run_id = register.start_run(place, plan.retrain_key, reason)
    try:
        stages = _run_stages(place, plan, run_id)
        result = register_challenger(place, store(place))
    except BaseException:  # also stopped by hand, or out of time
        with suppress(Exception):  # what ended it is told, and not that MLflow is down as well
            register.fail_run(place, run_id)
        raise
    report = result | {"schema": "retrain/1", "stages": stages, "error": None}
    status.remember_result(place, report)
    _show_artifacts(report)
    return report


def _copy_inputs(place: Workspace) -> None:
    """To the remotes, before a long training: until then this machine has the only copy, and nobody else sees them.

    A remote that is away stops no training: what follows it pushes everything, and insists.
    """
    try:
        if versioning.keeps_copies_elsewhere(place):
            versioning.push_inputs(place)
            exchange.push(place)
    except LclscError as error:
        get_run_logger().warning("the inputs are not copied yet: %s", error.cause)


def _out_of_time(limit_hours: float | None) -> OutsideSystemError:
    return OutsideSystemError(
        "out_of_time",
        f"The retrain was ended after its {limit_hours} hours.",
        "The next one goes on from its last checkpoint. Set limit_hours of the deployment in prefect.yaml.",
        transient=True,
    )


def _run_stages(workspace: Workspace, plan: planning.Plan, run_id: str) -> dict[str, dict[str, Any]]:
    """Every stage in file order, on one Ray; a registration that only has to be finished needs none."""
    from pipelines import gate

    with cluster.runtime(workspace) if plan.stale else nullcontext():
        done = {name: _run_stage(workspace, name, plan, run_id) for name in versioning.stages(workspace)}
        with suppress(OSError):
            gate.prepare()  # while Ray ends, and the model is stored and registered
        return done


def _is_transient(_task: Any, _run: Any, state: Any) -> bool:
    """Retry what may go away by itself, and nothing else: a bad parameter stays bad."""
    error = state.result(raise_on_failure=False)
    return isinstance(error, LclscError) and error.transient


def _stage_task(stage: str) -> Task[..., dict[str, Any]]:
    def body(workspace: Workspace, on_line: Callable[[str], None], reasons: list[str]) -> dict[str, Any]:
        return run_stage(workspace, stage, on_line, reasons)

    return task(
        name=stage,
        task_run_name=stage,
        retries=len(RETRY_SECONDS),
        retry_delay_seconds=RETRY_SECONDS,
        retry_condition_fn=_is_transient,
        cache_policy=NO_CACHE,
        persist_result=False,
    )(body)


def _run_stage(workspace: Workspace, stage: str, plan: planning.Plan, run_id: str) -> dict[str, Any]:
    with _Output(workspace, stage, run_id) as output:
        return _stage_task(stage)(workspace, output, plan.stale.get(stage, []))


def run_stage(workspace: Workspace, stage: str, on_line: Callable[[str], None], reasons: list[str]) -> dict[str, Any]:
    """One stage through DVC: what became of it, why, and how long it took. Raises the stage's typed error."""
    workspace.stage_error(stage).unlink(missing_ok=True)
    started = time.monotonic()
    try:
        ran = versioning.reproduce_stage(workspace, stage, on_line)
    except LclscError:
        _raise_typed(workspace, stage)
        raise
    if not ran:
        return {"state": "skipped", "reason": "nothing changed"}
    took = round(time.monotonic() - started, 1)
    _remember_duration(workspace, stage, took)
    counts = workspace.state / f"{stage}.run.json"
    extra = read_json(counts) if counts.exists() else {}
    return {"state": "ran", "reason": _because(stage, reasons, extra), **extra, "seconds": took}


def _because(stage: str, reasons: list[str], counts: dict[str, Any]) -> str:
    if stage == "extract" and counts.get("new"):
        return f"{counts['new']} new videos" + (f", {counts['removed']} removed" if counts["removed"] else "")
    if any(reason.endswith(" new") for reason in reasons):
        return "first build"
    shown = [reason.replace(" modified", " changed").replace(" deleted", " missing") for reason in reasons]
    return "; ".join(shown) or "what comes before it changed"


def _raise_typed(workspace: Workspace, stage: str) -> None:
    path = workspace.stage_error(stage)
    if path.exists():
        raise LclscError(**read_json(path))


class _Output:
    """Where a stage's lines go: progress to the bar and to MLflow, the rest to the run's log."""

    def __init__(self, workspace: Workspace, stage: str, run_id: str) -> None:
        self.workspace, self.stage, self.run_id = workspace, stage, run_id

    def __enter__(self) -> _Output:
        self.logger = get_run_logger()
        self.shown = progress.track(self.stage, 1, "")
        self.tracker = self.shown.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self.shown.__exit__(*error)

    def __call__(self, line: str) -> None:
        news = progress.parse(line)
        if news is None:
            self.logger.info(redact(line))
            return
        self.tracker.retitle(news.total, news.unit)
        self.tracker.update(news.done, news.note)
        if news.metrics:
            self._log(news.metrics)

    def _log(self, metrics: dict[str, float]) -> None:
        """A tracking store that hiccups, however, must not end a training: registration replays the history anyway."""
        try:
            self.tracking.log_history(self.run_id, [metrics])
        except Exception as error:
            self.logger.warning("not logged live: %s", redact(str(error)))

    @functools.cached_property
    def tracking(self) -> Registry:
        from pipelines import registry

        return registry.connect(self.workspace)


@task(
    name="store",
    cache_policy=NO_CACHE,
    persist_result=False,
    retries=len(RETRY_SECONDS),
    retry_delay_seconds=RETRY_SECONDS,
    retry_condition_fn=_is_transient,
)
def store(workspace: Workspace) -> str:
    """Commit the lock file, push the objects, check that they are there, push the commit."""
    version = manifest.data_version(workspace.manifest, workspace.splits)
    versioning.commit(workspace, ("dvc.lock",), f"Build data version {version}")
    versioning.push_objects(workspace)
    exchange.push(workspace)
    return versioning.head(workspace)


@task(name="register", cache_policy=NO_CACHE, persist_result=False)
def register_challenger(workspace: Workspace, commit: str) -> dict[str, Any]:
    """Find or create the version, judge it beside the champion, set its alias."""
    from pipelines import register

    durations = workspace.state / "durations.json"
    return register.run(
        workspace,
        params.load(workspace.params),
        commit=commit,
        durations=read_json(durations) if durations.exists() else {},
    )


def _remember_duration(workspace: Workspace, stage: str, took: float) -> None:
    path = workspace.state / "durations.json"
    known = read_json(path) if path.exists() else {}
    write_json(path, known | {stage: took})


def _show_artifacts(report: dict[str, Any]) -> None:
    rows = [{"stage": name, **stage} for name, stage in report["stages"].items()]
    create_table_artifact(key="retrain-stages", table=rows, description="What ran, what was skipped, and why")
    figures = "\n".join(f"| {name} | {value:.3f} |" for name, value in report["metrics"].items() if value is not None)
    create_markdown_artifact(
        key="retrain-result",
        markdown=f"# Version {report['version']}: {report['status']}\n\n"
        f"aliases: {', '.join(report['aliases']) or 'none'}\n\n| metric | value |\n|---|---|\n{figures}\n",
        description="The result of this retrain",
    )
