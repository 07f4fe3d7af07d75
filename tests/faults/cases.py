"""One point: copy a base, let the step be struck, do it again undisturbed, and compare with a run that never was.

Each run of a step is a process of its own, forked from this one, which has imported everything already.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import random
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from e2e.line import Line
from faults import bases, children, facts, server, stale
from faults.hook import striker
from faults.points import SERVER_KINDS, Point
from faults.steps import STEPS, retrain

from pipelines import settings
from pipelines.errors import LclscError
from pipelines.files import read_json, write_json
from pipelines.workspace import Workspace

HOOK = Path(__file__).with_name("hook")
PATIENCE_SECONDS = {"step": 900.0, "flow": 1800.0}
ATTEMPTS = 2  # undisturbed, until a step must be done
OK, REFUSED, BROKEN = 0, 3, 70
FLOW = "flow"


@dataclass(frozen=True, kw_only=True)
class Outcome:
    point: Point
    struck: bool
    place: str  # what was about to happen
    ended: str  # how the struck run ended
    problems: list[str]
    seconds: float

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def run(point: Point, folder: Path, room: Path) -> Outcome:
    """``folder``: the bases; ``room``: an empty folder that may be thrown away."""
    started = time.monotonic()
    expected = undisturbed(point.step, folder, room)
    case = Case(point.step, folder, room / "case")
    try:
        struck, place, ended = _strike(case, point, expected)
        problems = case.retrain(expected) or case.finish()
        problems = problems or facts.differences(expected["facts"], case.facts())
        problems += [f"outlived its run: {one}" for one in children.of_folder(case.room)]
    finally:
        case.end()
    return Outcome(
        point=point,
        struck=struck,
        place=place,
        ended=ended,
        problems=problems,
        seconds=round(time.monotonic() - started, 1),
    )


def undisturbed(step: str, folder: Path, room: Path) -> dict[str, Any]:
    """Facts, places and requests of a run that nothing happened to; kept beside the bases."""
    kept = folder / f"undisturbed-{step}.json"
    if not kept.exists():
        case = Case(step, folder, room / "undisturbed")
        try:
            ended = case.once(case.plan(0, "nothing"))
            assert ended == "exit 0", f"{step} fails without a fault: {ended}\n{case.log.read_text()[-2000:]}"
            assert case.once(None) == "exit 0", f"{step} cannot be repeated:\n{case.log.read_text()[-2000:]}"
            found = {
                "before": _before(step, folder, room) if _is_retrained(step) else None,
                "facts": case.facts(),
                "places": len(striker.places(case.records)),
                "requests": 0,
            }
        finally:
            case.end()
        if step in ("register", "approve", "rollback"):
            found["requests"] = _requests(step, folder, room)
        write_json(kept, found)
    return dict(read_json(kept))


def _is_retrained(step: str) -> bool:
    return step != FLOW and STEPS[step].retrained


def _before(step: str, folder: Path, room: Path) -> dict[str, Any]:
    """Facts of a retrain whose batch never came: it has taken over what others pushed."""
    case = Case(step, folder, room / "before")
    try:
        case.run_retrain()
        return case.facts()
    finally:
        case.end()


def _requests(step: str, folder: Path, room: Path) -> int:
    """Changing requests of the step when it speaks to a server."""
    case = Case(step, folder, room / "requests")
    try:
        case.serve("nothing", 0)
        assert case.once(None) == "exit 0", case.log.read_text()[-2000:]
        return len(case.requests())
    finally:
        case.end()


def _strike(case: Case, point: Point, expected: dict[str, Any]) -> tuple[bool, str, str]:
    """(did it happen, where, how the run ended)."""
    if point.kind in SERVER_KINDS:
        at = 1 + int(point.where * expected["requests"])
        case.serve(point.kind, at)
        ended = case.once(None)
        struck, place = len(case.requests()) >= at, [*case.requests(), ""][at - 1]
        if point.kind == "gone":
            case.serve("nothing", 0)  # it is back
        return struck, place, ended
    if point.kind == "locks":
        return True, stale.plant(case.place, random.Random(point.number)), case.once(None)
    if point.kind == "twice":
        return True, "", " and ".join(case.both())
    if point.kind == "short":
        limit = int(math.exp(math.log(200) + point.where * math.log(3e6 / 200)))
        return True, f"no file beyond {limit} bytes", case.once(case.plan(0, "nothing"), file_bytes=limit)
    at = 1 + int(point.where * expected["places"])
    ended = case.once(case.plan(at, point.kind))
    reached = striker.places(case.records)
    return striker.was_struck(case.records), [*reached, *[""] * at][at - 1], ended


class Case:
    """A copy of a base, and runs of one step in it."""

    def __init__(self, step: str, folder: Path, room: Path) -> None:
        shutil.rmtree(room, ignore_errors=True)
        self.step, self.room, self.folder = step, room, folder
        self.place = bases.copy(bases.base(folder, "in" if step == FLOW else STEPS[step].base), room)
        if step in ("intake", "left", "drop"):
            target = room / ("drop/more" if step == "drop" else "more")
            subprocess.run(["cp", "-a", "--parents", "more", str(room)], cwd=folder, check=True)
            if step == "drop":
                target.parent.mkdir()
                (room / "more").rename(target)
        self.records, self.log, self.counter = room / "records", room / "log", room / "requests"
        self.environment: dict[str, str] = {}
        self.server: int | None = None

    def plan(self, at: int, what: str) -> dict[str, Any]:
        return {"records": str(self.records), "root": str(self.room), "at": at, "what": what}

    def once(self, plan: dict[str, Any] | None, file_bytes: int | None = None) -> str:
        return self._wait(self._start(plan, file_bytes))

    def both(self) -> list[str]:
        """Two at a time."""
        return [self._wait(pid) for pid in [self._start(None), self._start(None)]]

    def retrain(self, expected: dict[str, Any]) -> list[str]:
        """Before a step is done again whose batch may never come again: all of it is in, or none."""
        if not _is_retrained(self.step):
            return []
        ended = self.run_retrain()
        wanted = expected["before" if ended == f"exit {OK}" else "facts"]
        told = facts.differences({name: wanted[name] for name in ("outputs", "committed", "open")}, self.facts())
        return [f"retrained, {ended}: {difference}: {self.log.read_text()[-700:]}" for difference in told]

    def run_retrain(self) -> str:
        return self._wait(_forked(lambda: self._step(retrain), self.log))

    def facts(self) -> dict[str, Any]:
        """As they are read back from a file."""
        return dict(json.loads(json.dumps(facts.gather(self.place))))

    def finish(self) -> list[str]:
        """Undisturbed, until it is done; what went wrong if it never is."""
        told = []
        for _ in range(ATTEMPTS):
            ended = self.once(None)
            if ended == "exit 0":
                return told
            told.append(f"not finished: {ended}: {self.log.read_text()[-700:]}")
        return told

    def serve(self, kind: str, at: int) -> None:
        self._end_server()
        port = server.free_port()
        self.environment = dict(server.FEW_RETRIES) if kind == "gone" else {}
        self.server = _forked(lambda: server.serve(self.place, port, kind, at, str(self.counter)), self.log)
        self.environment["MLFLOW_TRACKING_URI"] = f"http://127.0.0.1:{port}"
        deadline = time.monotonic() + 300
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                return
            time.sleep(0.05)
        raise AssertionError(self.log.read_text())

    def requests(self) -> list[str]:
        return self.counter.read_text().splitlines() if self.counter.exists() else []

    def end(self) -> None:
        self._end_server()
        shutil.rmtree(self.room, ignore_errors=True)

    def _end_server(self) -> None:
        if self.server is not None:
            os.kill(self.server, signal.SIGKILL)
            os.waitpid(self.server, 0)
            self.server = None

    def _start(self, plan: dict[str, Any] | None, file_bytes: int | None = None) -> int:
        if self.step == FLOW:
            return self._start_flow(plan)
        return _forked(lambda: self._step(STEPS[self.step].run, plan, file_bytes), self.log, self._leader(plan))

    def _leader(self, plan: dict[str, Any] | None) -> Path | None:
        return Path(f"{plan['records']}.leader") if plan else None

    def _step(
        self, run: Callable[[Workspace], None], plan: dict[str, Any] | None = None, file_bytes: int | None = None
    ) -> None:
        for name in [name for name in os.environ if name.startswith(("MLFLOW_TRACKING", "PREFECT_HOME", "RAY_ADD"))]:
            del os.environ[name]
        os.environ |= self.environment | {"LCLSC_KEY_FILE": str(self.folder / "patients.key")}
        settings.apply(self.place)
        if file_bytes is not None:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (file_bytes, file_bytes))
        elif plan:
            os.environ |= _counting(plan)
            striker.install(plan)
        run(self.place)

    def _start_flow(self, plan: dict[str, Any] | None) -> int:
        line = Line(self.place.root, self.folder / "patients.key")
        line.environment |= {"LCLSC_CHECKPOINT_SECONDS": "0"}
        if plan:
            line.environment |= _counting(plan)
        with self.log.open("ab") as log:
            process = line.start("retrain", "--json", stdout=log, stderr=log)
        if leader := self._leader(plan):
            leader.write_text(str(process.pid))
        process.returncode = 0  # awaited here, not by its destructor
        return process.pid

    def _wait(self, pid: int) -> str:
        deadline = time.monotonic() + PATIENCE_SECONDS[FLOW if self.step == FLOW else "step"]
        while time.monotonic() < deadline:
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                code = os.waitstatus_to_exitcode(status)
                return f"exit {code}" if code >= 0 else signal.Signals(-code).name
            time.sleep(0.01)
        os.killpg(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        return "never"


def _counting(plan: dict[str, Any]) -> dict[str, str]:
    """Environment under which every Python process counts."""
    before = os.environ.get("PYTHONPATH")
    return {striker.VARIABLE: json.dumps(plan), "PYTHONPATH": os.pathsep.join(filter(None, (str(HOOK), before)))}


def _forked(work: Callable[[], None], log: Path, leader: Path | None = None) -> int:
    """Run ``work`` in a child with a session of its own."""
    child = os.fork()
    if child:
        return child
    code = BROKEN
    try:
        os.setsid()
        with log.open("ab") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        if leader:
            leader.write_text(str(os.getpid()))
        work()
        code = OK
    except LclscError as error:
        print(f"{error.code}: {error.cause}", file=sys.stderr)
        code = REFUSED
    except KeyboardInterrupt:
        code = 130
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


@contextlib.contextmanager
def room(folder: Path) -> Iterator[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
