"""The command ``serve``: a registered model over HTTP, or the flows."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated

import typer

from flows import console
from flows.options import HERE, DebugOption, JsonOption, WorkspaceOption, open_workspace
from pipelines.errors import WrongUseError

MIB = 1 << 20
MODEL_PORT, PREFECT_PORT = 5001, 4200


def serve(
    context: typer.Context,
    workspace: WorkspaceOption = HERE,
    flows: Annotated[
        bool,
        typer.Option("--flows", help="Not a model: run the deployments of prefect.yaml, on a Prefect server of ours."),
    ] = False,
    drop: Annotated[
        str | None,
        typer.Option(
            help="With --flows: the drop folder, a path or an address such as s3://bucket/drop; each subfolder with a "
            "manifest.csv is a batch."
        ),
    ] = None,
    port: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=65535,
            help="Where to listen; 0 takes any free one. With --flows: of Prefect's page.",
            show_default=f"{MODEL_PORT}; with --flows {PREFECT_PORT}",
        ),
    ] = None,
    host: Annotated[
        str, typer.Option(help="Address to listen on; another than loopback needs LCLSC_SERVE_TOKEN.")
    ] = "127.0.0.1",
    model: Annotated[str, typer.Option(help="An alias, which is followed, or a version number.")] = "champion",
    timeout: Annotated[float, typer.Option(min=1, help="Seconds that one answer may take.")] = 60.0,
    max_mib: Annotated[int, typer.Option(min=1, help="Largest request.")] = 64,
    poll: Annotated[float, typer.Option(min=0.1, help="Seconds between two looks at the alias.")] = 1.0,
    log: Annotated[
        Path | None, typer.Option(help="Folder of the prediction log.", show_default=".state/serving")
    ] = None,
    no_log: Annotated[
        bool, typer.Option("--no-log", help="Keep no prediction log; the monitor then sees nothing.")
    ] = False,
    json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Serve the champion over HTTP, following the alias without dropping a request; or run the flows. Until Ctrl-C.

    MLflow's scoring server: POST tables to /invocations; /health and /version say which version answers.

    Example: LCLSC_SERVE_ROOT=/data/clips lclsc serve --workspace clinic

    Example: lclsc serve --flows --drop /export --workspace clinic
    """
    if flows:
        _refuse_options_of_a_model(context)
        from flows import flow_server

        flow_server.run(open_workspace(workspace), drop=drop, port=PREFECT_PORT if port is None else port)
        return
    if drop is not None:
        raise WrongUseError("drop_alone", "--drop goes with --flows only.", "Add --flows, or leave it out.")
    from pipelines.serving import Terms, serve
    from pipelines.serving.candidate import Source
    from pipelines.serving.terms import checked, token_from_environment

    place = open_workspace(workspace)
    terms = checked(
        Terms(
            host=host,
            port=MODEL_PORT if port is None else port,
            model=model.removeprefix("@"),
            token=token_from_environment(),
            request_seconds=timeout,
            max_body_bytes=max_mib * MIB,
            poll_seconds=poll,
            log=None if no_log else log or place.served,
        )
    )
    _log_to_stderr()
    with console.err.status(f"starting {model}") as status:

        def announce(address: str) -> None:
            status.stop()
            if json:
                console.print_json({"schema": "serve/1", "address": address, "model": terms.model})
                return
            console.err.print(f"Serving [bold]{model}[/] on [bold]{address}[/]; Ctrl-C ends it.")

        serve(Source(place, terms), terms, announce)


def _refuse_options_of_a_model(context: typer.Context) -> None:
    for name in ("host", "model", "timeout", "max_mib", "poll", "log", "no_log", "json"):
        if (source := context.get_parameter_source(name)) is not None and source.name == "COMMANDLINE":
            option = f"--{name.replace('_', '-')}"
            raise WrongUseError("option_of_a_model", f"{option} does not go with --flows.", "Leave it out.")


def _log_to_stderr() -> None:
    """Timed lines of our own; other packages only where something is wrong."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%Y-%m-%dT%H:%M:%S%z"))
    logger = logging.getLogger("pipelines.serving")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
