"""The command of the gate: promote."""

from __future__ import annotations

from typing import Annotated

import typer

from flows import console
from flows.options import HERE, DebugOption, JsonOption, WorkspaceOption, open_workspace
from pipelines.errors import WrongUseError


def promote(
    version: Annotated[str, typer.Argument(help="A version's number.")],
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
        console.print_clauses(found["clauses"])
        looks = found["looks"]
        warning = " [yellow]New test patients are due.[/]" if looks["warning"] else ""
        console.out.print(f"{looks['count']} versions were judged on these test videos.{warning}")
        aliases = ", ".join(found["aliases"]) or "no alias"
        console.out.print(f"version {version}: {found['verdict']}, {aliases}")
        if found["page"]:
            console.out.print(f"page: {found['page']}")
    raise typer.Exit(1 if found["verdict"] == "refused" else 0)
