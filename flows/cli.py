"""The command line ``lclsc``. Each command imports what it needs when it runs: help and status stay fast."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.text import Text

from flows import console, evidence, gating, monitoring, pages, passing_server, promotion, serving
from flows.options import HERE, DebugOption, JsonOption, WorkspaceOption, open_workspace
from pipelines import garbage, settings
from pipelines.errors import LclscError, WrongUseError, unexpected
from pipelines.redaction import redact
from pipelines.workspace import Workspace

app = typer.Typer(
    name="lclsc",
    help="From pCLE videos to a registered, explainable, auditable tissue classifier, again and again.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)


def main() -> None:
    """Run a command, and end."""
    garbage.collect_rarely()
    try:
        _run()
    except SystemExit as ending:
        if passing_server.is_lost():  # Prefect would try for minutes to send it the last events
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(ending.code if isinstance(ending.code, int) else int(ending.code is not None))
        raise


def _run() -> None:
    """An error is its cause and remedy, and its own exit code."""
    settings.apply()
    arguments = sys.argv[1:]
    try:
        app(standalone_mode=True)
    except Exception as raised:
        if "--debug" in arguments or os.environ.get("LCLSC_DEBUG"):
            print(redact(traceback.format_exc()), file=sys.stderr)
        error = raised if isinstance(raised, LclscError) else unexpected(raised)
        if "--json" in arguments:
            console.print_json(_failure(arguments[0], error))
        else:
            console.print_error(error)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        console.err.print("stopped; run the same command again to go on")
        sys.exit(130)


def _failure(command: str, error: LclscError) -> dict[str, Any]:
    """The command's own shape with nothing in it but the error."""
    report: dict[str, Any] = {"schema": f"{command}/1", "status": "failed", "error": error.as_json()}
    if command == "retrain":
        report |= {"version": None, "aliases": [], "stages": {}, "metrics": {}}
    return report


def _print_version(asked: bool) -> None:
    if asked:
        print(f"lclsc {importlib.metadata.version('lclsc')}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Of the program as a whole."""


@app.command()
def init(
    folder: Annotated[Path, typer.Argument(help="A new or empty folder.")],
    preset: Annotated[str | None, typer.Option(help="cpu or gpu; by default gpu where a GPU is seen.")] = None,
    remote: Annotated[
        str | None, typer.Option(help="Where DVC pushes: a folder or address outside the workspace.")
    ] = None,
    upgrade: Annotated[
        bool, typer.Option("--upgrade", help="FOLDER is a workspace of an older version: add what it lacks.")
    ] = False,
    json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Make a workspace: a git repository with DVC and its parameters.

    With --upgrade: keys that came since are added to params.yaml with their shipped values, yours stay, and nothing is
    committed: look at `git diff`, then commit.

    Example: lclsc init clinic --remote /backup/clinic

    Example: lclsc init clinic --upgrade
    """
    from pipelines import initialise

    if upgrade:
        _upgrade(folder, json)
        return
    chosen = preset or initialise.preset_for_this_machine()
    if chosen not in ("cpu", "gpu"):
        raise WrongUseError("preset", f"There is no preset {chosen!r}.", "Use cpu or gpu.")
    with console.err.status("making the workspace"):
        workspace = initialise.run(folder, preset=chosen, remote=remote)  # type: ignore[arg-type]
        initialise.share(workspace)
    if json:
        console.print_json({"schema": "init/1", "workspace": str(workspace.root), "preset": chosen})
        return
    console.out.print(f"[bold]{console.plain(str(folder))}[/] is a workspace now (preset {chosen}; see params.yaml).")
    if remote is None:
        console.out.print("Objects go to remotes/ inside it, which is no backup: see `lclsc init --help`, --remote.")
    console.out.print(f"Next: {console.command('lclsc', 'intake', 'SRC', '--workspace', folder)}", soft_wrap=True)


def _upgrade(folder: Path, json: bool) -> None:
    from pipelines import locks, upgrade

    place = open_workspace(folder)
    with locks.one_writer(place):
        changes = upgrade.run(place)
    if json:
        listed = [{"file": change.file, "what": change.what} for change in changes]
        console.print_json({"schema": "upgrade/1", "workspace": str(place.root), "changes": listed})
    elif not changes:
        console.out.print("Nothing to upgrade: this workspace has what this version needs.")
    else:
        rows = [(change.file, change.what) for change in changes]
        console.out.print(console.table("Upgraded", ("file", "what"), rows))
        console.out.print(
            "Look at it with `git diff`, then commit it. New values make stages stale: a retrain follows."
        )


@app.command()
def synth(
    folder: Annotated[Path, typer.Argument(help="Where to write the phantom videos.")],
    preset: Annotated[str, typer.Option(help="demo, micro or hard.")] = "demo",
    seed: Annotated[int, typer.Option(help="The same seed gives the same bytes.")] = 0,
    first_patient: Annotated[int, typer.Option(help="Number of the first patient of each class.")] = 0,
    patients: Annotated[int | None, typer.Option(help="Patients a class; by default the preset's.")] = None,
    json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Write phantom pCLE videos with a manifest and ground-truth masks.

    Example: lclsc synth phantoms --patients 1 --first-patient 6
    """
    from pipelines import progress
    from pipelines.synth import dataset as phantoms

    if preset not in phantoms.PRESETS:
        raise WrongUseError("preset", f"There is no preset {preset!r}.", f"Use one of {', '.join(phantoms.PRESETS)}.")
    with progress.track("synth", 1, "videos") as tracker:

        def show(done: int, total: int) -> None:
            tracker.retitle(total, "videos")
            tracker.update(done)

        try:
            report = phantoms.write_dataset(
                folder,
                phantoms.PRESETS[preset],
                seed=seed,
                first_patient=first_patient,
                patients_per_class=patients,
                on_video=show,
            )
        except ValueError as error:
            raise WrongUseError("synth", str(error), "Name another folder.") from None
    if json:
        console.print_json({"schema": "synth/1", "folder": str(folder), "videos": report.videos})
    else:
        console.out.print(f"{report.videos} phantom videos in [bold]{folder}[/]")


@app.command()
def intake(
    source: Annotated[
        str | None,
        typer.Argument(help="A folder with videos and their manifest.csv, or such an address: s3://bucket/march."),
    ] = None,
    workspace: WorkspaceOption = HERE,
    template: Annotated[
        bool,
        typer.Option(
            "--template", help="Only write SOURCE/manifest.csv to fill in, guessing from label/patient/*.mp4."
        ),
    ] = False,
    update: Annotated[
        bool, typer.Option("--update", help="Correct label, domain and site of known videos to what the rows say.")
    ] = False,
    quarantine: Annotated[
        bool, typer.Option("--quarantine", help="Only list what is set aside, why, and what to do about it.")
    ] = False,
    release: Annotated[
        str | None, typer.Option(help="Take this quarantined clip after all: its id, or at least 8 characters of it.")
    ] = None,
    reason: Annotated[str, typer.Option(help="Why it is released; kept in the ledger.")] = "",
    watch: Annotated[
        bool,
        typer.Option("--watch", help="SOURCE is a drop folder: take in each subfolder once its files stand still."),
    ] = False,
    once: Annotated[bool, typer.Option("--once", help="With --watch: one pass, for cron.")] = False,
    poll: Annotated[float, typer.Option(min=0.1, help="With --watch: seconds between two passes.")] = 10.0,
    settle: Annotated[float, typer.Option(min=0, help="With --watch: seconds without a change.")] = 30.0,
    json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Take in new videos: check them, give them ids, record them.

    Good rows go in; bad rows are listed and change nothing; bad files are set aside with a reason.

    Example: lclsc intake /export/march --workspace clinic

    Example: lclsc intake s3://bucket/march --workspace clinic

    Example: lclsc intake /export --watch --workspace clinic

    Example: lclsc intake --release 4f0c21ab --reason "checked by eye" --workspace clinic
    """
    from flows import intake_console
    from pipelines import intake as stage
    from pipelines.intake import incoming
    from pipelines.locks import one_writer

    if sum((source is not None, quarantine, release is not None)) != 1:
        raise WrongUseError("intake_what", "Name a SOURCE, or --quarantine, or --release ID.", "One of the three.")
    if template:
        assert source is not None
        intake_console.show_draft(incoming.draft(Path(source)), source, workspace, json)
        return
    place = open_workspace(workspace)
    if quarantine:
        intake_console.show_quarantine(place, json)
        return
    if watch:
        assert source is not None
        raise typer.Exit(intake_console.watch(place, source, poll=poll, settle=settle, once=once, json=json))
    with one_writer(place):
        if release is not None:
            if not reason:
                raise WrongUseError("no_reason", "A release needs a reason.", 'Add --reason "...".')
            report = stage.release(place, release, reason)
        else:
            assert source is not None
            report = stage.run(place, source, update=update)
    if json:
        console.print_json(report.as_json())
    else:
        intake_console.show(report)
    raise typer.Exit(0 if report.clean else 1)


@app.command()
def retrain(
    workspace: WorkspaceOption = HERE,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what is stale and why; change nothing.")] = False,
    workers: Annotated[int | None, typer.Option(help="Training workers; must divide train.logical_shards.")] = None,
    reason: Annotated[str, typer.Option(help="Why; kept word by word with the run: no names.")] = "manual",
    json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Build what new data, parameters or code make stale, and register the result.

    Nothing stale: nothing runs and nothing is registered.

    Example: lclsc retrain --workspace clinic --reason "March batch"
    """
    from flows import planning
    from pipelines import locks

    place = open_workspace(workspace)
    if workers is not None:
        os.environ["LCLSC_WORKERS"] = str(workers)
    planning.require_workers(place)
    if dry_run:
        _print_dry_run(planning.make(place), json)
        return
    report = _idle_report(place)
    if report is None:
        # Marked before a server starts: it must not outlive a killed run either.
        with console.stdout_to_stderr(json), locks.marked(place):
            with passing_server.starting(place):
                flow = _prepared_flow(place)
            report = flow(place.root, reason)
    if json:
        console.print_json(report)
    else:
        _print_retrain(report)
        pages.show(place, workspace)
    raise typer.Exit(1 if report["status"] == "refused" else 0)


def _prepared_flow(place: Workspace) -> Callable[..., dict[str, Any]]:
    """With what it will need: torch, MLflow, and a new workspace's tracking database take seconds."""
    from flows.retrain import retrain as flow
    from pipelines import register, registry  # noqa: F401 (register brings torch)

    if registry.is_embedded(place) and not place.tracking_database.exists():
        with contextlib.suppress(LclscError):  # told by the flow, which asks again
            registry.connect(place)
    return flow


def _idle_report(place: Workspace) -> dict[str, Any] | None:
    """The report of a retrain with nothing to do, before Prefect is even imported; None when there is work."""
    from flows import planning
    from pipelines import locks

    with locks.one_writer(place):
        planning.record_inputs(place)
        if not place.dvc_lock.exists():  # nothing was ever built
            return None
        plan = planning.make(place)
    planning.refuse_untracked_changes(plan)
    return planning.up_to_date(plan) if plan.up_to_date else None


def _print_dry_run(plan: Any, json: bool) -> None:
    if json:
        console.print_json({"schema": "plan/1", "up_to_date": plan.up_to_date, "stale": plan.stale})
    elif plan.up_to_date:
        console.out.print(f"Up to date: version {plan.version['version']} was built from exactly these inputs.")
    else:
        rows = [(stage, "; ".join(reasons)) for stage, reasons in plan.stale.items()]
        console.out.print(
            console.table("Would run", ("stage", "because"), rows or [("register", "no version has this key")])
        )


def _print_retrain(report: dict[str, Any]) -> None:
    if report["status"] == "up_to_date" and all(stage["state"] == "skipped" for stage in report["stages"].values()):
        console.out.print(
            f"Up to date: version [bold]{report['version']}[/] was built from exactly these videos, parameters "
            "and code. Nothing ran, nothing was registered."
        )
    rows = [
        (name, stage["state"], stage["reason"], console.seconds(stage.get("seconds")))
        for name, stage in report["stages"].items()
    ]
    console.out.print(console.table("Stages", ("stage", "", "because", "took"), rows))
    _print_figures(report)
    aliases = ", ".join(report["aliases"]) or "none"
    console.out.print(f"version [bold]{report['version']}[/]: {report['status']}, aliases: [bold]{aliases}[/]")
    console.print_clauses(report.get("gate", {}).get("clauses", []))


FIGURES = ("macro_f1", "balanced_accuracy", "patient_macro_f1", "saliency_iou", "pointing", "ece", "coverage")


def _print_figures(report: dict[str, Any]) -> None:
    """This version's figures, beside the champion's on the same unseen patients where there is one."""
    champion = report.get("champion")
    columns = ["unseen patients", f"version {report['version']}"] + (
        [f"champion {champion['version']}"] if champion else []
    )
    rows = []
    for name in FIGURES:
        row = [
            name.replace("_", " "),
            console.figure(report["metrics"].get(name), report.get("intervals", {}).get(name)),
        ]
        rows.append(row + ([console.figure(champion["metrics"].get(name))] if champion else []))
    console.out.print(console.table("Figures", columns, rows))


@app.command()
def status(
    workspace: WorkspaceOption = HERE,
    verify: Annotated[bool, typer.Option("--verify", help="Also ask DVC what is stale.")] = False,
    refresh_code: Annotated[
        bool,
        typer.Option("--refresh-code", help="Rewrite code.json for the installed code, before a `dvc repro` by hand."),
    ] = False,
    json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """What the workspace holds, what came out last, and who works on it.

    Example: lclsc status --workspace clinic --verify
    """
    from pipelines import status as stage

    place = open_workspace(workspace)
    if refresh_code:
        from pipelines import code_digest, locks

        with locks.one_writer(place):
            code_digest.refresh(place)
    report = stage.run(place, verify=verify)
    if json:
        console.print_json(report)
    else:
        _print_status(report)


SHOWN_VERSIONS = 10


def _versions_table(versions: list[dict[str, Any]]) -> Any:
    older = len(versions) - SHOWN_VERSIONS
    rows = [
        (
            one["version"],
            Text.assemble(", ".join(one["aliases"]) or "–", (" withdrawn" if one["withdrawn"] else "", "red")),
            one["verdict"] or "not judged",
            one["registered"],
        )
        for one in reversed(versions[-SHOWN_VERSIONS:])
    ]
    title = f"Versions ({older} older ones: --json)" if older > 0 else "Versions"
    return console.table(title, ("version", "alias", "gate", "registered"), rows)


def _print_status(report: dict[str, Any]) -> None:
    console.out.print(
        f"data version [bold]{report['data_version']}[/]: {report['videos']} videos of {report['patients']} patients"
        + (f", {report['quarantined']} in quarantine" if report["quarantined"] else "")
    )
    rows = [(label, *counts.values()) for label, counts in report["labels"].items()]
    if rows:
        console.out.print(console.table("Patients by class", ("label", "videos", "train", "validation", "test"), rows))
    if report["versions"]:
        console.out.print(_versions_table(report["versions"]))
    last = report["last_result"]
    if last:
        f1 = console.figure(last["metrics"].get("macro_f1"))
        console.out.print(f"last retrain: version {last['version']}, {last['status']}, macro-F1 {f1}")
    if report["working"] is not None:
        console.out.print(f"at work: process {report['working'].get('pid')} since {report['working'].get('since')}")
    for stage, reasons in report.get("stale", {}).items():
        console.out.print(f"stale: [bold]{stage}[/] ({'; '.join(reasons)})")
    for path in report.get("hand_edits", []):
        console.out.print(f"changed by hand: {path}")


@app.command()
def predict(
    video: Annotated[Path, typer.Argument(help="A video file.")],
    workspace: WorkspaceOption = HERE,
    model: Annotated[
        str | None, typer.Option(help="A version or @alias; by default @champion, else the newest version.")
    ] = None,
    sheet: Annotated[Path | None, typer.Option(help="Draw frames with their saliency into this PNG.")] = None,
    overlay: Annotated[Path | None, typer.Option(help="Film the video beside its saliency, into this MP4.")] = None,
    json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Classify a video, frame by frame and as a whole.

    Example: lclsc predict clip.mp4 --workspace clinic --sheet sheet.png --overlay overlay.mp4
    """
    from pipelines import predict as stage

    place = open_workspace(workspace)
    # One moving line at a time: an overlay has a bar.
    waiting = console.err.status("looking at the video") if overlay is None else contextlib.nullcontext()
    with waiting:
        result = stage.run(place, video, model=model, sheet=sheet, film=overlay)
    if json:
        console.print_json(result)
    else:
        _print_prediction(result, sheet, overlay)


def _print_prediction(result: dict[str, Any], sheet: Path | None, overlay: Path | None) -> None:
    rows = []
    for frame in result["frames"]:
        said = (frame["class"], f"{frame['probabilities'][frame['class']]:.2f}") if frame["keep"] else ("", "")
        state = "not judged" if not frame["keep"] else "rejected" if frame["reject"] else ""
        rows.append((frame["frame_index"], f"{frame['pts_seconds']:.2f}", *said, state))
    console.out.print(console.table("Frames", ("frame", "s", "class", "probability", ""), rows))
    whole = result["video"]
    if whole["class"] is None:
        console.out.print("The video as a whole: no frame is fit to be judged.")
    else:
        shares = ", ".join(f"{name} {share:.2f}" for name, share in whole["probabilities"].items())
        console.out.print(
            f"The video as a whole: [bold]{whole['class']}[/] ({shares}), by model version {result['version']}"
        )
    if sheet:
        console.out.print(f"Saliency sheet: {sheet}")
    if overlay:
        console.out.print(f"Overlay: {overlay}")


@app.command()
def doctor(
    workspace: Annotated[Path | None, typer.Option("--workspace", "-w", help="Also look into this workspace.")] = None,
    repair: Annotated[
        bool, typer.Option("--repair", help="Mend what can be mended without losing anything; say what was done.")
    ] = False,
    deep: Annotated[
        bool, typer.Option("--deep", help="Also hash every object in DVC's cache and remotes: it may take long.")
    ] = False,
    json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Check versions, locks, disk, databases, remotes, clock and sockets; each finding comes with its remedy.

    Example: lclsc doctor --workspace clinic --repair
    """
    from pipelines import doctor as stage

    place = open_workspace(workspace) if workspace else None
    if (repair or deep) and place is None:
        raise WrongUseError("repair_what", "Objects and repairs are a workspace's.", "Name it with --workspace.")
    findings = stage.repair(place, deep=deep) if repair and place else stage.run(place, deep=deep)
    if json:
        console.print_json({"schema": "doctor/1", "findings": [finding.as_json() for finding in findings]})
    else:
        rows = [
            (
                Text("ok", "green") if finding.ok else Text("mend", "red"),
                finding.name,
                finding.found,
                "" if finding.ok else finding.remedy,
            )
            for finding in findings
        ]
        console.out.print(console.table("Doctor", ("", "what", "found", "remedy"), rows))
    raise typer.Exit(0 if all(finding.ok for finding in findings) else 1)


COMMANDS: tuple[Callable[..., None], ...] = (
    *(evidence.audit, evidence.trace, evidence.diff, evidence.reproduce, evidence.forget, evidence.gc),
    *(gating.promote, promotion.approve, promotion.rollback, promotion.history),
    *(serving.serve, monitoring.monitor),
)
for command in COMMANDS:
    app.command()(command)
