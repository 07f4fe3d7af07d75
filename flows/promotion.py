"""Commands of promotion: approve, rollback, history."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from flows import console
from flows.options import HERE, DebugOption, JsonOption, WorkspaceOption, open_workspace


def approve(
    version: Annotated[str, typer.Argument(help="The challenger: its number or @challenger.")],
    by: Annotated[str, typer.Option(help="Who decides.")],
    reason: Annotated[str, typer.Option(help="Why; kept in the ledger.")],
    evidence: Annotated[
        str | None, typer.Option(help="SHA-256 of the gate.json you looked at; 8 characters do.")
    ] = None,
    workspace: WorkspaceOption = HERE,
    json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Make the challenger champion.

    Refused (exit code 1) when the champion, the evidence or the policy changed since the gate judged it, when
    the evidence is too old, or when the approver trained it and promote.four_eyes is set.

    Example: lclsc approve 2 --by "Dr. Ada Weber" --reason "better on the new site" --workspace clinic
    """
    from pipelines import promotion as stage

    outcome = stage.approve(open_workspace(workspace), version, by=by, reason=reason, evidence=evidence)
    _print_outcome("approve", outcome.as_json(), json)


def rollback(
    reason: Annotated[str, typer.Option(help="Why; kept in the ledger.")],
    to: Annotated[str | None, typer.Option(help="An earlier champion; by default the one before.")] = None,
    by: Annotated[str, typer.Option(help="Who decides; by default the name of your account.")] = "",
    workspace: WorkspaceOption = HERE,
    json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Take the champion back: the one before it serves again at once, whatever is being trained.

    Example: lclsc rollback --reason "misses meningioma at site B" --workspace clinic
    """
    from pipelines import promotion as stage

    outcome = stage.rollback(open_workspace(workspace), reason=reason, to=to, by=by)
    _print_outcome("rollback", outcome.as_json(), json)


def _print_outcome(command: str, outcome: dict[str, Any], json: bool) -> None:
    if json:
        console.print_json({"schema": f"{command}/1"} | outcome)
        return
    before = f" (before: version {outcome['before']})" if outcome["before"] else ""
    if outcome["status"] == "champion_already":
        console.out.print(f"Version [bold]{outcome['version']}[/] is champion already.")
    else:
        console.out.print(f"Version [bold]{outcome['version']}[/] is champion{before}.")
    if outcome["pushed"] is False:
        console.err.print("[yellow]The ledger's commit could not be pushed; the next push takes it along.[/]")


def history(
    workspace: WorkspaceOption = HERE,
    json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Who moved which alias, when, and on which evidence.

    Exit code 1 when the registry's aliases are not where the ledger's last moves put them.

    Example: lclsc history --workspace clinic
    """
    from pipelines import alias_report as stage

    report = stage.run(open_workspace(workspace))
    if json:
        console.print_json(report)
    else:
        _print_history(report)
    raise typer.Exit(1 if report["differences"] or report["open"] else 0)


def _print_history(report: dict[str, Any]) -> None:
    rows = [
        (
            move["at"].replace("T", " ").removesuffix("Z"),
            f"{move['alias']} {move['from'] or '–'} → {move['to'] or '–'}",
            move["event"].replace("_", " "),
            _person(move),
            move["reason"],
            f"{move['verdict']}, {move['gate_sha256'][:12]}" if move["gate_sha256"] else "",
        )
        for move in report["moves"]
    ]
    console.out.print(console.table("Aliases", ("when (UTC)", "moved", "", "by", "because", "evidence"), rows))
    present = ", ".join(f"{alias}: version {version}" for alias, version in sorted(report["aliases"].items()))
    console.out.print(f"now {present or 'no alias is set'}")
    for open_ in report["open"]:
        console.out.print(f"[red]half done: {open_['alias']} {open_['from'] or '–'} → {open_['to'] or '–'}[/]")
    for alias, found in report["differences"].items():
        words = f"the ledger says {found['ledger'] or 'none'}, the registry has {found['registry'] or 'none'}"
        console.out.print(f"[red]{alias}: {words}[/]")
    if report["open"] or report["differences"]:
        console.out.print("[red]→ lclsc doctor --repair[/]")


def _person(move: dict[str, Any]) -> str:
    """The typed name, and whom the machine took the person for."""
    known = " / ".join(name for name in (move["os_user"], move["git_user"]) if name)
    return f"{move['by']} ({known})" if known else str(move["by"])
