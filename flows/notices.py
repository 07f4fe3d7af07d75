"""Notices to people: what was registered, waits, was approved or refused, failed, drifted or was found by an audit.

Where to: ``LCLSC_NOTIFY`` (Apprise addresses, separated by spaces), else the Prefect block that
``LCLSC_NOTIFY_BLOCK`` names (``slack-webhook/ops``). Addresses hold secrets: they stand in no file of the
workspace, and no log line shows more of one than its scheme.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

from pipelines.errors import OF_THE_DISK, LclscError, OutsideSystemError
from pipelines.files import read_json, write_json
from pipelines.workspace import Workspace

Kind = Literal["registered", "waiting", "approved", "refused", "failed", "drift", "audit", "intake"]

TYPES: dict[Kind, Literal["info", "success", "warning", "failure"]] = {
    "registered": "success",
    "waiting": "info",
    "approved": "success",
    "refused": "warning",
    "failed": "failure",
    "drift": "warning",
    "audit": "failure",
    "intake": "warning",
}
"""Apprise's, by which receivers colour and filter."""

DAY = 24 * 3600.0
ONCE_A_DAY = ("intake", "audit", "monitor")
"""Flows of which the same trouble is told once a day: some run every minute."""

log = logging.getLogger("lclsc.notices")


def send(kind: Kind, title: str, body: str) -> bool:
    """Tell whoever wants to know. A notice that cannot be sent stops nothing.

    True when somebody has it, or nobody is to be told: then it need not be sent again.
    """
    senders = [*_addresses(kind), *_block()]
    delivered = [_deliver(name, sender, f"lclsc: {title}", body) for name, sender in senders]
    if not all(delivered):
        log.warning("notice %s: %d of %d addresses not reached", kind, delivered.count(False), len(delivered))
    return any(delivered) or not delivered


def of_retrain(report: dict[str, Any], workspace: str) -> None:
    """What a retrain has to say; nothing when it had nothing to do.

    One that finishes what a killed one began, or evaluates a version anew, built nothing and has judged all the same.
    """
    if "gate" not in report:
        return
    version, aliases = report["version"], report["aliases"]
    f1 = report["metrics"].get("macro_f1")
    figure = "" if f1 is None else f", macro-F1 {f1:.3f} on unseen patients"
    if report["status"] == "refused":
        send("refused", f"version {version} is refused", f"{workspace}: the gate refused it{figure}.")
    elif "challenger" in aliases:
        send("waiting", f"version {version} waits for approval", f"{workspace}: it is challenger{figure}.")
    else:
        names = ", ".join(aliases) or "no alias"
        send("registered", f"version {version} is registered", f"{workspace}: {names}{figure}.")


def of_drift(report: dict[str, Any], workspace: str) -> None:
    """Which figures have drifted, or that nothing was served; nothing when none has. A week without videos is one."""
    if not report["cases"] and report["source"] == "served":
        said = f"no case of {report['days']:g} days was served. Is it logged, and where this looks for it?"
        send("drift", f"version {report['version']}: nothing to look at", f"{workspace}: {said}")
    figures = sorted({one["figure"] for one in report["findings"] if one["alarm"]})
    if figures:
        said = f"{', '.join(figures)} in {report['cases']} cases of {report['days']:g} days"
        send("drift", f"version {report['version']}: drift", f"{workspace}: {said}. See `lclsc monitor`.")


@contextlib.contextmanager
def of_trouble(what: str, workspace: Workspace) -> Iterator[None]:
    """Tell of a failure inside; the same one at most once a day."""
    try:
        yield
    except Exception as error:
        _once_a_day(what, error, workspace)
        raise


def _once_a_day(what: str, error: Exception, workspace: Workspace) -> None:
    told = workspace.state / "told" / f"{what}.json"
    trouble = error.code if isinstance(error, LclscError) else type(error).__name__
    if not _is_told(told, trouble) and of_failure(what, error, workspace.root.name):
        with contextlib.suppress(OSError):  # on a full disk people are told more often
            write_json(told, trouble)


def _is_told(path: Path, trouble: str) -> bool:
    with contextlib.suppress(OSError, ValueError):
        age = time.time() - path.stat().st_mtime  # below 0 where the clock was set back
        return read_json(path) == trouble and 0 <= age < DAY
    return False


def of_failure(what: str, error: Exception, workspace: str) -> bool:
    """Why a run ended, as ``send``; an error of our own names no patient, another one only its kind."""
    if isinstance(error, LclscError):
        said = f"{error.cause} {error.remedy}"
    elif isinstance(error, OSError) and error.errno in OF_THE_DISK:
        said = f"{error.strerror}. {OF_THE_DISK[error.errno][1]}"
    else:
        said = type(error).__name__
    return send("failed", f"{what} failed", f"{workspace}: {said}")


def of_crash(flow: Any, flow_run: Any, state: Any) -> None:
    """Prefect's hook for a run whose process is gone without a verdict, which Prefect says with its exit code.

    SIGTERM is how people, and a service that stops, end a run: with it, or with no code, it was asked for.
    """
    code = re.search(r"status code: (-?\d+)", state.message or "")
    if code is None or flow_run.deployment_id is None or -int(code[1]) == signal.SIGTERM:
        return
    number = -int(code[1])
    memory = ", perhaps out of memory" if number == signal.SIGKILL else ""
    ended = f"was killed (signal {number}){memory}" if number > 0 else f"ended without a verdict (code {-number})"
    of_killed(flow.name, f"Its process {ended}.", Workspace(Path(flow_run.parameters["workspace"]).resolve()))


def of_killed(what: str, cause: str, workspace: Workspace) -> None:
    error = OutsideSystemError("run_killed", cause, "Look at the log; the next run goes on from where it was.")
    if what in ONCE_A_DAY:
        _once_a_day(what, error, workspace)
    else:
        of_failure(what, error, workspace.root.name)


def _deliver(name: str, sender: Callable[[str, str], bool], title: str, body: str) -> bool:
    try:
        return sender(title, body)
    except Exception as error:  # its text may hold the address
        log.warning("notice by %s failed: %s", name, type(error).__name__)
        return False


def _addresses(kind: Kind) -> list[tuple[str, Callable[[str, str], bool]]]:
    addresses = os.environ.get("LCLSC_NOTIFY", "").split()
    return [(address.split("://")[0], _apprise(address, kind)) for address in addresses]


def _apprise(address: str, kind: Kind) -> Callable[[str, str], bool]:
    def sender(title: str, body: str) -> bool:
        import apprise

        logging.getLogger("apprise").setLevel(logging.CRITICAL)  # it would log addresses
        box = apprise.Apprise()
        return bool(box.add(address)) and bool(box.notify(title=title, body=body, notify_type=TYPES[kind]))

    return sender


def _block() -> list[tuple[str, Callable[[str, str], bool]]]:
    name = os.environ.get("LCLSC_NOTIFY_BLOCK")
    if not name:
        return []

    def sender(title: str, body: str) -> bool:
        from prefect.blocks.core import Block

        Block.load(name).notify(body=body, subject=title)  # type: ignore[union-attr]
        return True

    return [(name, sender)]
