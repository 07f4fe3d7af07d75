"""The command line ``lclsc``. Each command imports what it needs when it runs: help and status stay fast."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from flows import console
from pipelines import settings
from pipelines.errors import LclscError, WrongUseError, unexpected
from pipelines.workspace import Workspace

app = typer.Typer(
    name="lclsc",
    help="From pCLE videos to a registered, explainable, auditable tissue classifier, again and again.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)

WorkspaceOption = Annotated[
    Path, typer.Option("--workspace", "-w", help="The workspace's folder.", show_default="the current folder")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON on stdout; everything else goes to stderr.")]
DebugOption = Annotated[bool, typer.Option("--debug", help="Show tracebacks.", envvar="LCLSC_DEBUG")]
HERE = Path()


def main() -> None:
    """Run a command; an error is its cause and remedy, and its own exit code."""
    settings.apply()
    arguments = sys.argv[1:]
    try:
        app(standalone_mode=True)
    except Exception as raised:
        if "--debug" in arguments or os.environ.get("LCLSC_DEBUG"):
            raise
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


def _open(folder: Path) -> Workspace:
    workspace = Workspace.open(folder)
    settings.apply(workspace)
    return workspace


@app.command()
def init(
    folder: Annotated[Path, typer.Argument(help="A new or empty folder.")],
    preset: Annotated[str | None, typer.Option(help="cpu or gpu; by default gpu where a GPU is seen.")] = None,
    remote: Annotated[
        str | None, typer.Option(help="Where DVC pushes: a folder or address outside the workspace.")
    ] = None,
    json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Make a workspace: a git repository with DVC and its parameters.

    Example: lclsc init clinic --remote /backup/clinic
    """
    from pipelines import initialise

    chosen = preset or initialise.preset_for_this_machine()
    if chosen not in ("cpu", "gpu"):
        raise WrongUseError("preset", f"There is no preset {chosen!r}.", "Use cpu or gpu.")
    with console.err.status("making the workspace"):
        workspace = initialise.run(folder, preset=chosen, remote=remote)  # type: ignore[arg-type]
    if json:
        console.print_json({"schema": "init/1", "workspace": str(workspace.root), "preset": chosen})
        return
    console.out.print(f"[bold]{folder}[/] is a workspace now (preset {chosen}; see params.yaml).")
    if remote is None:
        console.out.print("Objects go to remotes/ inside it, which is no backup: see `lclsc init --help`, --remote.")
    console.out.print(f"Next: lclsc intake SRC --workspace {folder}")


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
    from pipelines import incoming
    from pipelines import intake as stage
    from pipelines.locks import one_writer

    if sum((source is not None, quarantine, release is not None)) != 1:
        raise WrongUseError("intake_what", "Name a SOURCE, or --quarantine, or --release ID.", "One of the three.")
    if template:
        assert source is not None
        written = incoming.draft(Path(source))
        console.err.print(f"Fill in [bold]{written}[/], then run `lclsc intake {source}`.")
        return
    place = _open(workspace)
    if quarantine:
        intake_console.show_quarantine(place, json)
        return
    if watch:
        assert source is not None
        raise typer.Exit(intake_console.watch(place, Path(source), poll=poll, settle=settle, once=once, json=json))
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
    reason: Annotated[str, typer.Option(help="Why; noted with the run.")] = "manual",
    json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Build what new data, parameters or code make stale, and register the result.

    Nothing stale: nothing runs and nothing is registered.

    Example: lclsc retrain --workspace clinic --reason "March batch"
    """
    from flows import planning
    from pipelines import locks

    place = _open(workspace)
    if workers is not None:
        os.environ["LCLSC_WORKERS"] = str(workers)
    planning.require_workers(place)
    if dry_run:
        _print_dry_run(planning.make(place), json)
        return
    report = _idle_report(place)
    if report is None:
        from flows.retrain import retrain as flow

        # Marked before Prefect starts its server: it must not outlive a killed run either.
        with console.stdout_to_stderr(json), locks.marked(place):
            report = flow(place.root, reason)
    if json:
        console.print_json(report)
    else:
        _print_retrain(report)
        _print_pages(workspace)
    raise typer.Exit(1 if report["status"] == "refused" else 0)


def _idle_report(place: Workspace) -> dict[str, Any] | None:
    """The report of a retrain with nothing to do, before Prefect is even imported; None when there is work."""
    from flows import planning
    from pipelines import locks

    with locks.one_writer(place):
        planning.record_inputs(place)
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
    for clause in report.get("gate", {}).get("clauses", []):
        mark = {"passed": "[green]passed[/]", "refused": "[red]refused[/]"}.get(
            clause["verdict"], "[yellow]undecided[/]"
        )
        console.out.print(f"  {mark} {clause['name']}: {clause['note']}")


def _print_pages(folder: Path) -> None:
    """Where to look next; each line can be pasted."""
    database, home = folder / "mlflow.db", folder / ".state" / "prefect"
    console.out.print("\nLook at it:", style="bold")
    lines = (
        ("the report", f"xdg-open {folder / 'reports' / 'report.html'}"),
        ("MLflow's page", f"mlflow server --host 127.0.0.1 --port 5000 --backend-store-uri sqlite:///{database}"),
        (
            "Prefect's page",
            f"PREFECT_SERVER_ANALYTICS_ENABLED=false PREFECT_HOME={home.absolute()} "
            "prefect server start --host 127.0.0.1",
        ),
    )
    for what, command in lines:
        console.out.print(f"  {what:<15} {command}", highlight=False, soft_wrap=True)


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
    from pipelines import code_digest
    from pipelines import status as stage

    place = _open(workspace)
    if refresh_code:
        code_digest.refresh(place)
    report = stage.run(place, verify=verify)
    if json:
        console.print_json(report)
    else:
        _print_status(report)


def _print_status(report: dict[str, Any]) -> None:
    console.out.print(
        f"data version [bold]{report['data_version']}[/]: {report['videos']} videos of {report['patients']} patients"
        + (f", {report['quarantined']} in quarantine" if report["quarantined"] else "")
    )
    rows = [(label, *counts.values()) for label, counts in report["labels"].items()]
    if rows:
        console.out.print(console.table("Patients by class", ("label", "videos", "train", "validation", "test"), rows))
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
    json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Classify a video, frame by frame and as a whole.

    Example: lclsc predict clip.mp4 --workspace clinic --sheet sheet.png
    """
    from pipelines import predict as stage

    place = _open(workspace)
    with console.err.status("looking at the video"):
        result = stage.run(place, video, model=model, sheet=sheet)
    if json:
        console.print_json(result)
    else:
        _print_prediction(result, sheet)


def _print_prediction(result: dict[str, Any], sheet: Path | None) -> None:
    rows = []
    for frame in result["frames"]:
        best = frame["probabilities"][frame["class"]]
        state = "not judged" if not frame["keep"] else "rejected" if frame["reject"] else ""
        rows.append((frame["frame_index"], f"{frame['pts_seconds']:.2f}", frame["class"], f"{best:.2f}", state))
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


@app.command()
def doctor(
    workspace: Annotated[Path | None, typer.Option("--workspace", "-w", help="Also look into this workspace.")] = None,
    json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Check versions, locks, disk and remotes; each finding comes with its remedy.

    Example: lclsc doctor --workspace clinic
    """
    from pipelines import doctor as stage

    place = _open(workspace) if workspace else None
    findings = stage.run(place)
    if json:
        console.print_json({"schema": "doctor/1", "findings": [finding.as_json() for finding in findings]})
    else:
        rows = [
            (
                "[green]ok[/]" if finding.ok else "[red]mend[/]",
                finding.name,
                finding.found,
                "" if finding.ok else finding.remedy,
            )
            for finding in findings
        ]
        console.out.print(console.table("Doctor", ("", "what", "found", "remedy"), rows))
    raise typer.Exit(0 if all(finding.ok for finding in findings) else 1)


@app.command()
def audit(
    targets: Annotated[
        list[str] | None,
        typer.Argument(help="Versions, @aliases, data versions or commits; by default the champion, else the newest."),
    ] = None,
    workspace: WorkspaceOption = HERE,
    everything: Annotated[bool, typer.Option("--all", help="Every version in the registry.")] = False,
    sample: Annotated[int | None, typer.Option(min=1, help="Hash this many objects a target instead of all.")] = None,
    seed: Annotated[int, typer.Option(help="Which objects are drawn.")] = 0,
    record: Annotated[bool, typer.Option("--record", help="Note the audit in the ledger.")] = False,
    json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Re-hash the real bytes behind a model or a data version, and check every claim made about it.

    Exit code 1 when a check fails or cannot be answered. Writes nothing unless --record.

    Example: lclsc audit @champion --workspace clinic
    """
    from pipelines.evidence import audit as stage
    from pipelines.evidence.object_checks import Sample

    place = _open(workspace)
    report = stage.run(
        place, targets or [], everything=everything, sample=Sample(size=sample, seed=seed), record=record
    )
    if json:
        console.print_json(report.as_json())
    else:
        _print_audit(report.as_json())
    raise typer.Exit(0 if report.verdict == "pass" else 1)


def _print_audit(report: dict[str, Any]) -> None:
    colours = {"pass": "green", "fail": "red", "unknown": "yellow"}
    rows = [
        (
            f"[{colours[check['verdict']]}]{check['verdict']}[/]",
            check["name"],
            check["object"],
            check["expected"],
            check["found"],
        )
        for check in report["checks"]
    ]
    console.out.print(
        console.table("Audit of " + ", ".join(report["targets"]), ("", "check", "object", "expected", "found"), rows)
    )
    console.out.print(f"verdict: [bold {colours[report['verdict']]}]{report['verdict']}[/]")


@app.command()
def trace(
    kind: Annotated[str, typer.Argument(help="patient, video, frame or model.")],
    name: Annotated[
        str | None, typer.Argument(help="Pseudonym, video id, <video id>:<frame>, version or @alias; 8 characters do.")
    ] = None,
    workspace: WorkspaceOption = HERE,
    raw: Annotated[bool, typer.Option("--raw", help="Read a raw patient id from standard input.")] = False,
    json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """What a patient, video or frame went into, and what a model was made from.

    Example: lclsc trace patient kdemo-ab7db3yv6ryyoimr --workspace clinic
    """
    from pipelines.evidence import trace as stage

    place = _open(workspace)
    if kind not in stage.KINDS:
        raise WrongUseError("no_such_kind", f"{kind} cannot be traced.", f"Use one of {', '.join(stage.KINDS)}.")
    result = stage.run(place, kind, _pseudonym(place, kind) if raw else name or "")
    if json:
        console.print_json(result)
    else:
        _print_trace(result)


def _pseudonym(place: Workspace, kind: str) -> str:
    """A raw id never stands in an argument, where other users of the machine and the shell's history see it."""
    from pipelines import identity, manifest

    if kind != "patient":
        raise WrongUseError("raw_patient", "--raw goes with patients only.", "Leave it out.")
    return identity.known_pseudonym(sys.stdin.readline(), manifest.read_splits(place.splits))


def _print_trace(result: dict[str, Any]) -> None:
    withdrawn = f", [red]withdrawn: {', '.join(result['withdrawn'])}[/]" if result["withdrawn"] else ""
    console.out.print(f"[bold]{result['kind']} {result['id']}[/]{withdrawn}")
    videos = [
        (v["video_id"][:12], v["patient_id"], v["label"], v["split"], "" if v["present"] else "left")
        for v in result["videos"]
    ]
    console.out.print(console.table("Videos", ("video", "patient", "label", "split", ""), videos))
    if "versions" in result:
        rows = [
            (v["version"], ", ".join(v["aliases"]), ", ".join(v["roles"]), v["commit_id"][:12])
            for v in result["versions"]
        ]
        console.out.print(console.table("Models", ("version", "aliases", "used for", "commit"), rows))


@app.command()
def diff(
    one: Annotated[str, typer.Argument(help="A version, @alias, data version or commit.")],
    two: Annotated[str, typer.Argument(help="Another one.")],
    workspace: WorkspaceOption = HERE,
    json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """What changed between two models or data versions: videos, patients, labels, parameters, code, figures.

    Example: lclsc diff 1 @challenger --workspace clinic
    """
    from pipelines.evidence import diff as stage

    result = stage.run(_open(workspace), one, two)
    if json:
        console.print_json(result)
    else:
        _print_diff(result)


def _print_diff(result: dict[str, Any]) -> None:
    console.out.print(f"from [bold]{result['from']['name']}[/] to [bold]{result['to']['name']}[/]")
    for part in ("videos", "patients"):
        counts = ", ".join(f"{len(found)} {what}" for what, found in result[part].items() if found)
        console.out.print(f"{part}: {counts or 'the same'}")
    changed = [
        (f"video {video[:12]}: {c['key']}", c["from"], c["to"])
        for video, list_ in result["videos"]["changed"].items()
        for c in list_
    ]
    for part in ("params", "code", "environment", "metrics"):
        changed += [(f"{part}: {change['key']}", change["from"], change["to"]) for change in result[part]]
    console.out.print(console.table("Changes", ("what", "from", "to"), changed) if changed else "nothing else changed")


@app.command()
def reproduce(
    version: Annotated[str, typer.Argument(help="A version or @alias.")],
    workspace: WorkspaceOption = HERE,
    start: Annotated[
        str, typer.Option("--from", help="extract: from raw video; train: from the stored frames.")
    ] = "extract",
    anyway: Annotated[
        bool, typer.Option("--anyway", help="Go on with the installed packages where the recorded lock differs.")
    ] = False,
    keep: Annotated[Path | None, typer.Option(help="Build in this new folder and leave it there.")] = None,
    record: Annotated[bool, typer.Option("--record", help="Note the outcome in the ledger.")] = False,
    json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Build a registered version again from raw video, with its own code, and compare every byte.

    Exit code 1 unless the bytes are identical.

    Example: lclsc reproduce @champion --workspace clinic
    """
    from pipelines.evidence import reproduce as stage

    place = _open(workspace)
    if start not in stage.STARTS:
        raise WrongUseError("no_such_start", f"Nothing starts at {start}.", f"Use one of {', '.join(stage.STARTS)}.")
    result = stage.run(place, version, start=start, anyway=anyway, keep=keep, record=record)  # type: ignore[arg-type]
    if json:
        console.print_json(result.as_json())
    else:
        _print_reproduction(result.as_json())
    raise typer.Exit(0 if result.verdict == "identical" else 1)


def _print_reproduction(result: dict[str, Any]) -> None:
    words = {
        "identical": "[green]identical bytes[/]",
        "tolerance": "[yellow]same within tolerance[/]",
        "different": "[red]different[/]",
    }
    console.out.print(
        f"version {result['version']}: {words[result['verdict']]} ({result['compared']} outputs compared)"
    )
    console.out.print(
        f"ran {', '.join(result['steps'])}; {result['frames_decoded']} frames decoded, {result['reused']} shards reused"
    )
    for line in result["environment"]:
        console.out.print(f"environment: {line}")
    if result["differing"]:
        rows = [(entry["path"], entry["recorded"], entry["rebuilt"]) for entry in result["differing"]]
        console.out.print(
            console.table("Outputs that differ, the first one first", ("output", "recorded", "rebuilt"), rows)
        )


@app.command()
def forget(
    patient: Annotated[str | None, typer.Argument(help="The patient's pseudonym; 8 characters do.")] = None,
    workspace: WorkspaceOption = HERE,
    raw: Annotated[bool, typer.Option("--raw", help="Read a raw patient id from standard input.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Withdraw a patient: delete their pixels everywhere, and mark every model that saw them.

    This cannot be undone. Pseudonyms in git and in the ledger stay.

    Example: lclsc forget kdemo-ab7db3yv6ryyoimr --workspace clinic
    """
    from pipelines import locks
    from pipelines.evidence import forget as stage
    from pipelines.evidence import trace as index

    place = _open(workspace)
    found = index.run(place, "patient", _pseudonym(place, "patient") if raw else patient or "")
    if not yes and not json:
        console.out.print(f"{found['id']}: {len(found['videos'])} videos, {len(found['versions'])} models saw them.")
        typer.confirm("Delete this patient's videos, masks and frames for good?", abort=True)
    elif not yes:
        raise WrongUseError("not_confirmed", "Forgetting cannot be undone.", "Say so with --yes.")
    with locks.one_writer(place):
        result = stage.run(place, found["id"])
    if json:
        console.print_json(result.as_json())
        return
    console.out.print(
        f"{result.patient_id} is forgotten: {len(result.videos)} videos, {result.objects} stored objects."
    )
    for alias, version in result.aliases.items():
        console.out.print(f"[yellow]{alias} is version {version}, which saw this patient.[/]")
    if result.versions:
        console.out.print(f"Models that saw them: {', '.join(result.versions)}. Next: lclsc retrain")


@app.command()
def gc(
    workspace: WorkspaceOption = HERE,
    remotes: Annotated[bool, typer.Option("--remotes", help="Also in the DVC remotes.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
    json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Free the disk of objects that no registered model and no branch needs.

    Example: lclsc gc --dry-run --workspace clinic
    """
    from pipelines import locks
    from pipelines.evidence import gc as stage

    place = _open(workspace)
    with locks.one_writer(place):
        result = stage.run(place, remotes=remotes, dry_run=dry_run)
    if json:
        console.print_json(result.as_json())
    else:
        words = "would be freed" if dry_run else "freed"
        console.out.print(f"{result.freed} objects ({result.bytes / 2**20:.1f} MiB) {words}; {result.kept} are needed")
