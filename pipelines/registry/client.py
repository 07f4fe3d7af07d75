"""MLflow's client with this project's errors."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Callable, Iterator
from typing import Any

from pipelines.errors import OutsideSystemError

TRANSIENT = {"TEMPORARILY_UNAVAILABLE", "REQUEST_LIMIT_EXCEEDED", "INTERNAL_ERROR"}


class Client:
    """MLflow's client with this project's errors."""

    def __init__(self, client: Any) -> None:
        self._client = client

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self._client, name)

        def call(*arguments: Any, **named: Any) -> Any:
            with translated(name):
                return method(*arguments, **named)

        return call


@contextlib.contextmanager
def translated(action: str) -> Iterator[None]:
    from mlflow.exceptions import MlflowException

    try:
        yield
    except MlflowException as error:
        raise _refusal(action, str(error.message), transient=error.error_code in TRANSIENT) from error
    except sqlite3.Error as error:  # where this project opens mlflow.db itself: locked, or damaged
        raise _refusal(action, str(error), transient=isinstance(error, sqlite3.OperationalError)) from error


def _refusal(action: str, why: str, *, transient: bool) -> OutsideSystemError:
    return OutsideSystemError(
        "mlflow",
        f"MLflow refused {action}: {why}",
        "Look at the tracking server or at mlflow.db, and run the same command again.",
        transient=transient,
    )


@contextlib.contextmanager
def process_address(uri: str) -> Iterator[None]:
    """The store resolves ``models:/`` through the process's address, whatever client asked: lend it ours.

    Without it MLflow makes a stray mlflow.db in the working directory and finds nothing there.
    """
    before = os.environ.get("MLFLOW_TRACKING_URI")
    os.environ["MLFLOW_TRACKING_URI"] = uri
    try:
        yield
    finally:
        if before is None:
            del os.environ["MLFLOW_TRACKING_URI"]
        else:
            os.environ["MLFLOW_TRACKING_URI"] = before
