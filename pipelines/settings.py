"""Settings of the outside systems for offline, private use. Applied before any of them is imported.

Everything is a default: what the user has set in the environment wins.
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from pipelines import processes
from pipelines.files import read_json
from pipelines.workspace import Workspace, private_folder

OFFLINE = {
    "DO_NOT_TRACK": "true",  # the word: MLflow compares with "true", Prefect takes it too
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_TELEMETRY_ENABLE_RESOURCE_METRICS": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "RAY_USAGE_STATS_ENABLED": "0",
    "DVC_NO_ANALYTICS": "1",
    "DVC_STUDIO_OFFLINE": "1",
    "DVC_EXP_AUTO_PUSH": "false",
}
SAFE = {
    "PREFECT_RESULTS_DEFAULT_SERIALIZER": "json",
    "PREFECT_RESULTS_PERSIST_BY_DEFAULT": "false",
    "PREFECT_SERVER_API_HOST": "127.0.0.1",
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    "MLFLOW_CREATE_MODEL_VERSION_SOURCE_VALIDATION_REGEX": "^(models|runs):/",
}
QUIET = {
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
    "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
    "PREFECT_SERVER_LOGGING_LEVEL": "WARNING",
    # The command line shows progress and errors itself; all lines are in the run's log on Prefect's page.
    "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",
    "PREFECT_LOGGING_EXTRA_LOGGERS": "lclsc.notices",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_SKIP_PIP_REQUIREMENTS_CHECK": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "RAY_DEDUP_LOGS": "1",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "240",  # importing torch on a busy machine takes longer than 60 s
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
    "GIT_TERMINAL_PROMPT": "0",
    # A host that takes the connection and then says nothing for a minute is away; git itself would wait for ever.
    "GIT_HTTP_LOW_SPEED_LIMIT": "1",
    "GIT_HTTP_LOW_SPEED_TIME": "60",
}


def apply(workspace: Workspace | None = None) -> None:
    """Fill in what the user has not set; a workspace adds the homes of its embedded services."""
    for name, value in (OFFLINE | SAFE | QUIET).items():
        os.environ.setdefault(name, value)
    if workspace is None:
        return
    state = private_folder(workspace.state)
    is_ours = os.environ.setdefault("PREFECT_HOME", str(state / "prefect")) == str(state / "prefect")
    _use_running_server(state / "prefect")
    if is_ours and "PREFECT_API_URL" not in os.environ:
        _guard_passing_server()
    os.environ["DVC_SITE_CACHE_DIR"] = str(private_folder(state / "dvc-site"))
    os.environ.setdefault("MLFLOW_TRACKING_URI", f"sqlite:///{workspace.tracking_database}")


def _guard_passing_server() -> None:
    """The server that one command starts for itself listens on loopback, where every user of the machine is."""
    password = os.environ.setdefault("PREFECT_SERVER_API_AUTH_STRING", f"lclsc:{secrets.token_urlsafe(24)}")
    os.environ.setdefault("PREFECT_API_AUTH_STRING", password)


def _use_running_server(home: Path) -> None:
    """Where ``lclsc serve --flows`` runs, its Prefect server is the one for every command."""
    try:
        server = read_json(home / "server.json")
        alive = processes.start_of(server["pid"]) == server["started"]
        password = (home / "auth").read_text().strip()
    except (OSError, ValueError, KeyError):
        return
    if alive and "PREFECT_API_URL" not in os.environ:
        os.environ["PREFECT_API_URL"] = str(server["url"])
        os.environ["PREFECT_API_AUTH_STRING"] = password
