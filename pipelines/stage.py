"""What every stage does around its work: settings, parameters, locks, report, typed errors."""

from __future__ import annotations

import ctypes
import importlib
import os
import signal
import sys
import traceback
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any

from pipelines import code_digest, garbage, locks, settings
from pipelines import params as parameters
from pipelines.errors import LclscError, unexpected
from pipelines.files import write_json
from pipelines.redaction import redact
from pipelines.workspace import Workspace


def main(stage: str) -> None:
    """``python -m pipelines.<stage>`` in a workspace: run it, write its report, exit with its code."""
    garbage.collect_rarely()
    # By its real name: what it sends to Ray workers must not live in ``__main__``.
    run = importlib.import_module(f"pipelines.{stage}").run
    workspace = Workspace.open(Path.cwd())
    settings.apply(workspace)
    workspace.stage_error(stage).unlink(missing_ok=True)
    try:
        with held(workspace):
            code_digest.require_current(workspace, stage)
            report = run(workspace, parameters.load(workspace.params))
            write_json(workspace.stage_report(stage), report)
    except Exception as raised:
        error = raised if isinstance(raised, LclscError) else unexpected(raised)
        _explain(workspace, stage, error)
        sys.exit(error.exit_code)


def held(workspace: Workspace) -> AbstractContextManager[Any]:
    """The workspace for this stage: its owner's child joins it, a stage started by hand takes it."""
    stack = ExitStack()
    if locks.runs_under_an_owner(workspace):
        die_with_parent()
    else:
        stack.enter_context(locks.one_writer(workspace))
    stack.enter_context(locks.writing(workspace))
    return stack


def die_with_parent() -> None:
    """Ask Linux to kill this process when its parent dies, however it dies."""
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None, use_errno=True).prctl(pr_set_pdeathsig, signal.SIGKILL)


def _explain(workspace: Workspace, stage: str, error: LclscError) -> None:
    write_json(workspace.stage_error(stage), error.as_json())
    if os.environ.get("LCLSC_DEBUG"):
        print(redact(traceback.format_exc()), file=sys.stderr)
    print(f"{stage}: {error.cause}\n  {error.remedy}", file=sys.stderr)
