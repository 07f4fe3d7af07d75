"""The command of the gate: promote."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from flows import console
from flows.options import HERE, DebugOption, JsonOption, WorkspaceOption, open_workspace
from pipelines.errors import WrongUseError


def promote(
    version: Annotated[str, typer.Argument(help="A version: its number or @challenger.")],
    to: Annotated[str, typer.Option("--to", help="challenger, or champion where promote.approval is auto.")] = (
        "challenger"
    ),
    workspace: WorkspaceOption = HERE,
    json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Ask the gate again about a registered version, and set its alias unless it is refused.

    Exit code 1 when the gate refuses.

    Example: lclsc promote 3 --workspace clinic
    """
    from pipelines import locks, params, register

    if to not in ("challenger", "champion"):
        raise WrongUseError("no_such_alias", f"Nothing is promoted to {to}.", "Use challenger or champion.")
    place = open_workspace(workspace)
    with locks.one_writer(place):
        found = register.promote(place, params.load(place.params), version, to_champion=to == "champion")
    if json:
        console.print_json(found)
    else:
        _print_verdict(found)
    raise typer.Exit(1 if found["verdict"] == "refused" else 0)


def _print_verdict(found: dict[str, Any]) -> None:
    """Clauses, what a reader should know beside them, and what can be done next."""
    number, looks = found["version"], found["looks"]
    console.print_clauses(found["clauses"])
    judged = "1 version was" if looks["count"] == 1 else f"{looks['count']} versions were"
    warning = " [yellow]New test patients are due.[/]" if looks["warning"] else ""
    console.out.print(f"{judged} judged on these test videos.{warning}")
    _print_influence(found["influence"] or {"verdict": None, "patients": []})
    console.out.print(f"version {number}: {found['verdict']}, {', '.join(found['aliases']) or 'no alias'}")
    if found["page"]:
        console.out.print(f"page: {found['page']}")
    else:
        console.out.print("No new page: models/ holds another version. MLflow keeps the one of its registration.")
    if "challenger" in found["aliases"]:
        evidence = found["gate_sha256"][:12]
        console.out.print(f"next: lclsc approve {number} --by NAME --reason TEXT --evidence {evidence}")


def _print_influence(found: dict[str, Any]) -> None:
    names = [row["patient_id"] for row in found["patients"] if row["verdict"] not in (None, found["verdict"])]
    if names:
        told = ", ".join(names[:3]) + (f" or one of {len(names) - 3} others" if len(names) > 3 else "")
        console.out.print(f"[yellow]One patient alone decides:[/] without {told} macro-F1 is not {found['verdict']}.")
