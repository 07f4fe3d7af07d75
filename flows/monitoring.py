"""The command ``monitor``: does what the champion looks at still resemble what it was tested on?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.text import Text

from flows import console
from flows.options import HERE, DebugOption, JsonOption, WorkspaceOption, open_workspace
from pipelines.errors import WrongUseError


def monitor(
    workspace: WorkspaceOption = HERE,
    source: Annotated[
        str, typer.Option(help="served: what was asked of `lclsc serve`; intake: new videos.")
    ] = "served",
    against: Annotated[
        str, typer.Option(help="own: the version's test and validation videos; log: what was served before.")
    ] = "own",
    days: Annotated[float | None, typer.Option(min=0.0, help="Days up to now; by default monitor.window_days.")] = None,
    model: Annotated[
        str | None, typer.Option(help="A version or @alias; by default @champion, else the newest.")
    ] = None,
    log: Annotated[
        Path | None, typer.Option(help="Folder of the prediction log.", show_default=".state/serving")
    ] = None,
    no_record: Annotated[bool, typer.Option("--no-record", help="Write no event to the ledger.")] = False,
    json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Test whether images, distances to the classes, classes or rejects have drifted, by site.

    Exit code 1 on an alarm. One value a case; monitor.alpha is the chance of a false alarm on one look, where whoever
    asked `lclsc serve` named the case of each clip.

    Example: lclsc monitor --days 7 --workspace clinic
    """
    from pipelines import monitor as stage

    if source not in ("served", "intake") or against not in ("own", "log"):
        raise WrongUseError("monitor_what", f"{source} against {against} cannot be compared.", "See --help.")
    place = open_workspace(workspace)
    with console.err.status("looking at the cases"):
        report = stage.run(
            place,
            model=model,
            source=source,  # type: ignore[arg-type]
            against=against,  # type: ignore[arg-type]
            days=days,
            log=log,
            record=not no_record,
        )
    if json:
        console.print_json(report.as_json())
    else:
        _print(report)
    raise typer.Exit(1 if report.alarms else 0)


def _print(report: Any) -> None:
    if report.findings:
        columns = ("site", "figure", "reference", "now", "effect", "p (Holm)", "")
        rows = [
            (
                one.site or "not named",
                one.figure,
                _figure(one.before),
                _figure(one.now),
                f"{one.effect:.2f}",
                f"{one.p_adjusted:.2g}",
                Text("alarm", "red") if one.alarm else "steady",
            )
            for one in sorted(report.findings, key=lambda one: one.p_adjusted)
        ]
        console.out.print(console.table(f"Version {report.version}, the last {report.days:g} days", columns, rows))
    words = {
        "drift": f"[red]drift[/] in {len(report.alarms)} of {len(report.findings)} figures",
        "steady": "no drift found",
        "too_few": f"too few cases to say anything: {report.params.min_cases} of one site are needed",
    }
    console.out.print(
        f"{words[report.status]}; {report.cases} cases against {report.reference_cases}{_promise(report)}",
        highlight=False,
    )


def _promise(report: Any) -> str:
    """Served clips of one patient pass for several cases where nobody said that they are one."""
    if not report.findings:
        return ""
    rate = f"; false alarms on at most {100 * report.params.alpha:g} % of the looks"
    served = report.source == "served" or report.against == "log"
    return f"{rate}, if clients name the case of each clip" if served else rate


def _figure(value: float | None) -> str | None:
    return None if value is None else f"{value:.3g}"
