"""Commands of evidence: audit, trace, diff, reproduce, forget, gc."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.text import Text

from flows import console, remedies
from flows.options import HERE, DebugOption, JsonOption, WorkspaceOption, open_workspace
from pipelines.errors import WrongUseError
from pipelines.files import write_text
from pipelines.workspace import Workspace


def audit(
    targets: Annotated[
        list[str] | None,
        typer.Argument(help="Versions, @aliases, data versions or commits; by default the champion, else the newest."),
    ] = None,
    workspace: WorkspaceOption = HERE,
    everything: Annotated[bool, typer.Option("--all", help="Every version in the registry.")] = False,
    deep: Annotated[
        bool,
        typer.Option(
            "--deep", help="Decode every video again, compare its frames, and look for near copies across the split."
        ),
    ] = False,
    sample: Annotated[int | None, typer.Option(min=1, help="Hash this many objects a target instead of all.")] = None,
    seed: Annotated[int, typer.Option(help="Which objects are drawn.")] = 0,
    html: Annotated[Path | None, typer.Option(help="Also write a page for reviewers to this file.")] = None,
    record: Annotated[bool, typer.Option("--record", help="Note the audit in the ledger.")] = False,
    json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Re-hash the real bytes behind a model or a data version, and check every claim made about it.

    Exit code 1 when a check fails or cannot be answered. Writes nothing unless --record.

    Example: lclsc audit @champion --workspace clinic --html audit.html
    """
    from pipelines.evidence import audit as stage
    from pipelines.evidence.object_checks import Sample
    from pipelines.evidence.page import build_page

    place = open_workspace(workspace)
    report = stage.run(
        place, targets or [], everything=everything, deep=deep, sample=Sample(size=sample, seed=seed), record=record
    )
    if html:
        write_text(html, build_page(report.as_json()))
    if json:
        console.print_json(report.as_json())
    else:
        _print_audit(report.as_json())
    raise typer.Exit(0 if report.verdict == "pass" else 1)


def _print_audit(report: dict[str, Any]) -> None:
    colours = {"pass": "green", "unknown": "yellow", "fail": "red"}
    worst_last = sorted(report["checks"], key=lambda check: list(colours).index(check["verdict"]))
    rows = [
        (
            Text(check["verdict"], colours[check["verdict"]]),
            check["name"],
            check["object"],
            check["expected"],
            check["found"],
        )
        for check in worst_last
    ]
    console.out.print(
        console.table("Audit of " + ", ".join(report["targets"]), ("", "check", "object", "expected", "found"), rows)
    )
    open_ones = [check["name"] for check in report["checks"] if check["verdict"] != "pass"]
    told = f": {len(open_ones)} of {len(rows)}, {', '.join(dict.fromkeys(open_ones))}" if open_ones else ""
    if helps := remedies.of(open_ones):
        console.out.print(console.table("What helps", ("check", "remedy"), helps))
    console.out.print(f"verdict: [bold {colours[report['verdict']]}]{report['verdict']}[/]{told}")


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

    place = open_workspace(workspace)
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
    others = ", ".join(patient for patient in result["withdrawn"] if patient != result["id"])
    told = f"withdrawn: {others}" if others else "withdrawn"
    withdrawn = f" [red]({told})[/]" if result["withdrawn"] else ""
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

    result = stage.run(open_workspace(workspace), one, two)
    if json:
        console.print_json(result)
    else:
        _print_diff(result)


def _print_diff(result: dict[str, Any]) -> None:
    console.out.print(
        f"from [bold]{console.plain(result['from']['name'])}[/] to [bold]{console.plain(result['to']['name'])}[/]"
    )
    for part in ("videos", "patients"):
        counts = ", ".join(f"{len(found)} {what}" for what, found in result[part].items() if found)
        console.out.print(f"{part}: {counts or 'the same'}")
    changed = [
        (f"video {video[:12]}: {c['key']}", c["from"], c["to"])
        for video, list_ in result["videos"]["changed"].items()
        for c in list_
    ]
    for part in ("params", "code", "environment", "metrics"):
        changed += [
            (f"{part}: {change['key']}", *(_rounded(change[side]) for side in ("from", "to")))
            for change in result[part]
        ]
    console.out.print(console.table("Changes", ("what", "from", "to"), changed) if changed else "nothing else changed")


def _rounded(value: Any) -> Any:
    """Figures to what a person reads; all digits stand in --json."""
    return f"{value:.6g}" if isinstance(value, float) else value


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

    place = open_workspace(workspace)
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
        console.out.print(f"environment: {console.plain(line)}")
    if result["differing"]:
        rows = [(entry["path"], entry["recorded"], entry["rebuilt"]) for entry in result["differing"]]
        console.out.print(
            console.table("Outputs that differ, the first one first", ("output", "recorded", "rebuilt"), rows)
        )


def forget(
    patient: Annotated[str | None, typer.Argument(help="The patient's pseudonym; 8 characters do.")] = None,
    workspace: WorkspaceOption = HERE,
    raw: Annotated[bool, typer.Option("--raw", help="Read a raw patient id from standard input.")] = False,
    log: Annotated[
        list[Path] | None,
        typer.Option(help="A prediction log outside the workspace (`serve --log`), to take them out of; repeatable."),
    ] = None,
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

    place = open_workspace(workspace)
    for folder in log or []:
        if not folder.is_dir():
            raise WrongUseError("no_log", f"{folder} is no folder.", "Name the folder that `serve --log` was given.")
    found = index.run(place, "patient", _pseudonym(place, "patient") if raw else patient or "")
    if not yes and not json:
        console.out.print(f"{found['id']}: {len(found['videos'])} videos, {len(found['versions'])} models saw them.")
        typer.confirm("Delete this patient's videos, masks and frames for good?", abort=True)
    elif not yes:
        raise WrongUseError("not_confirmed", "Forgetting cannot be undone.", "Say so with --yes.")
    with locks.one_writer(place):
        result = stage.run(place, found["id"], logs=log or [])
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


def gc(
    workspace: WorkspaceOption = HERE,
    remotes: Annotated[
        bool, typer.Option("--remotes", help="Also in the DVC remotes, from the workspace that promotes.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
    json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Free the disk of objects that no registered model and no branch needs.

    Example: lclsc gc --dry-run --workspace clinic
    """
    from pipelines import locks
    from pipelines.evidence import gc as stage

    place = open_workspace(workspace)
    with locks.one_writer(place):
        result = stage.run(place, remotes=remotes, dry_run=dry_run)
    if json:
        console.print_json(result.as_json())
    else:
        words = "would be freed" if dry_run else "freed"
        young = f"; {result.spared} are younger than a day and stay" if result.spared else ""
        size = f"{result.bytes / 2**20:.1f} MiB"
        console.out.print(f"{result.freed} objects ({size}) {words}; {result.kept} are needed{young}")
