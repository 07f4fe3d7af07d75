"""Options that every command has, spelled once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipelines import settings
from pipelines.workspace import Workspace

WorkspaceOption = Annotated[
    Path, typer.Option("--workspace", "-w", help="The workspace's folder.", show_default="the current folder")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON on stdout; everything else goes to stderr.")]
DebugOption = Annotated[bool, typer.Option("--debug", help="Show tracebacks.", envvar="LCLSC_DEBUG")]
HERE = Path()


def open_workspace(folder: Path) -> Workspace:
    workspace = Workspace.open(folder)
    settings.apply(workspace)
    return workspace
