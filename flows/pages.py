"""Where to look after a retrain: the address of each page that is up, or a line to be pasted that opens it."""

from __future__ import annotations

import os
from pathlib import Path

from flows import console, flow_server, passing_server
from pipelines import registry
from pipelines.redaction import redact
from pipelines.workspace import Workspace, private_folder


def show(workspace: Workspace, folder: Path) -> None:
    """For the workspace that the user calls ``folder``."""
    pages = (
        ("the report", console.command("xdg-open", folder / "reports" / "report.html")),
        ("MLflow's page", _mlflow(workspace, folder)),
        ("Prefect's page", _prefect(workspace.state / "prefect")),
    )
    console.out.print("\nLook at it:", style="bold")
    for what, line in pages:
        console.out.print(f"  {what:<15} {line}", highlight=False, soft_wrap=True)


def _mlflow(workspace: Workspace, folder: Path) -> str:
    store = redact(registry.tracking_uri(workspace))
    if store.startswith(("http://", "https://")):
        return console.plain(store)
    if registry.is_embedded(workspace):
        store = f"sqlite:///{folder / workspace.tracking_database.name}"
    opened = console.command("mlflow", "ui", "--host", "127.0.0.1", "--backend-store-uri", store)
    return f"MLFLOW_DISABLE_TELEMETRY=true {opened}"


def _prefect(ours: Path) -> str:
    """The running page; or how to open it, in our home with a password, for whoever reaches it may let code run."""
    home = Path(os.environ["PREFECT_HOME"])
    is_ours = home == ours
    # Prefect is not imported where nothing ran: nobody but serve --flows names a server in our home.
    if named := os.environ.get(passing_server.URL) if is_ours else passing_server.named_by_user():
        return console.plain(redact(named.removesuffix("/api")))
    settings = f"PREFECT_SERVER_ANALYTICS_ENABLED=false {console.command(f'PREFECT_HOME={home}')}"
    start = "prefect server start --host 127.0.0.1"
    if not is_ours:
        return f"{settings} {start}"
    flow_server.password(private_folder(home))
    auth = console.command(home / "auth")
    return f'{settings} PREFECT_SERVER_API_AUTH_STRING="$(cat {auth})" {start}  # password: cat {auth}'
