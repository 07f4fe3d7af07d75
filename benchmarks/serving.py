"""A thousand requests while champions change: none lost, each answered by one version; what the front door costs.

Beside `lclsc serve` runs plain `mlflow models serve` of the same version: one client asks both in turn. Then clients
send requests at a steady rate while the champion moves back and forth between two versions. An answer belongs to a
version when it is, to the last digit, what that version says alone. Plain MLflow goes on with the version it began
with; to follow, it has to be restarted. Both sides compute on one thread.
"""

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import numpy as np

import drawn_registry
from harness import InProcess, Report, at_least, at_most, contest, figure, read_options, run_race
from peers.serve import Numbers
from pipelines.registry import Registry

BIN = Path(sys.executable).parent
JSON = {"content-type": "application/json"}
CLIENTS = 4
PAUSE_SECONDS = 0.2  # of a client, from request to request
BETWEEN_MOVES_SECONDS = 2.0
REQUEST = json.dumps({"dataframe_split": {"columns": ["image"], "data": [[drawn_registry.picture(0)]]}}).encode()


def main() -> None:
    options = read_options(__doc__)
    report = Report("serving", options)
    requests, moves = options.pick(1000, quick=60), options.pick(4, quick=1)
    with tempfile.TemporaryDirectory(prefix="bench-serving-") as name:
        store = drawn_registry.build(Path(name) / "workspace")
        with front_door(store) as ours, plain(store) as theirs:
            _report_cost(report, ours, theirs, rounds=options.pick(9, quick=1))
            truth = {number: _alone(store, number, ours) for number in ("1", "2")}
            quiet = asyncio.run(load(ours, truth, enough=lambda seen: len(seen.milliseconds) >= requests // 4))
            store.set_alias("champion", "1")
            _wait_for(ours, "1")
            busy = asyncio.run(promoted(store, ours, truth, requests=requests, moves=moves))
            beside = asyncio.run(promoted(store, theirs, truth, requests=requests // 4, moves=0))
        restart = _restart_seconds(store)
    report.add({"promotions": busy.record(), "no promotion": quiet.record(), "plain MLflow": beside.record()})
    report.claim(at_least("requests during promotions", len(busy.milliseconds), requests, "requests"))
    report.claim(at_least("promotions meanwhile", busy.moves, moves, "switches"))
    report.claim(at_most("requests lost", busy.lost, 0, "requests"))
    report.claim(at_most("answers of no version or of another than they name", busy.strange, 0, "answers"))
    report.claim(at_least("versions that answered", len(busy.versions), 2, "versions"))
    for seen, when in ((busy, "during promotions"), (quiet, "without"), (beside, "plain MLflow, without")):
        for share in (50, 99):
            report.claim(figure(f"p{share} {when}", seen.percentile(share), "ms"))
    late = 100 * beside.late / max(1, beside.after_move)
    report.claim(figure("plain MLflow: answers by the old champion after a promotion", late, "%"))
    report.claim(figure("plain MLflow: nobody answers during the restart it needs", restart, "s"))
    report.finish()


# ---- what one client waits for


def _report_cost(report: Report, ours: str, theirs: str, rounds: int) -> None:
    contestants = [InProcess("lclsc serve", _asker(ours)), InProcess("mlflow models serve", _asker(theirs))]
    with contest(*contestants) as both:
        race = run_race(both, {"requests": 30}, rounds=rounds)
    report.add(race)
    for name in ("lclsc serve", "mlflow models serve"):
        report.claim(figure(f"one client, one image: {name}", race.median(name, "milliseconds"), "ms"))
    ratio = race.ratio("lclsc serve", "mlflow models serve", "milliseconds")
    report.claim(at_most("times plain mlflow models serve", ratio, 1.2, "x"))


def _asker(url: str) -> Callable[..., Numbers]:
    client = httpx.Client(base_url=url, timeout=60, trust_env=False)

    def ask(requests: int) -> Numbers:
        taken = []
        for _ in range(requests):
            start = time.perf_counter()
            client.post("/invocations", content=REQUEST, headers=JSON).raise_for_status()
            taken.append(time.perf_counter() - start)
        return {"milliseconds": 1000 * float(np.median(taken))}

    return ask


# ---- what many clients see


@dataclass
class Seen:
    """All answers of one run; ``late`` are those of the old version after its successor was champion."""

    milliseconds: list[float] = field(default_factory=list)
    versions: dict[str, int] = field(default_factory=dict)
    lost: int = 0
    strange: int = 0
    moves: int = 0
    after_move: int = 0
    late: int = 0

    def percentile(self, share: float) -> float:
        return float(np.percentile(self.milliseconds, share))

    def record(self) -> dict[str, object]:
        return {
            "requests": len(self.milliseconds) + self.lost,
            "lost": self.lost,
            "strange": self.strange,
            "versions": self.versions,
            "switches": self.moves,
            **{f"p{share}_ms": self.percentile(share) for share in (50, 90, 99, 100)},
        }


async def load(
    url: str, truth: dict[str, str], *, enough: Callable[[Seen], bool], seen: Seen | None = None, champion: str = ""
) -> Seen:
    """CLIENTS at a steady rate until it is enough."""
    seen = seen or Seen()
    limits = httpx.Limits(max_connections=CLIENTS, max_keepalive_connections=CLIENTS)
    async with httpx.AsyncClient(base_url=url, timeout=60, trust_env=False, limits=limits) as client:
        await asyncio.gather(*(_ask_on(client, truth, seen, enough, champion, n) for n in range(CLIENTS)))
    return seen


async def _ask_on(
    client: httpx.AsyncClient,
    truth: dict[str, str],
    seen: Seen,
    enough: Callable[[Seen], bool],
    champion: str,
    number: int,
) -> None:
    """One client; all of them evenly apart."""
    await asyncio.sleep(number * PAUSE_SECONDS / CLIENTS)
    while not enough(seen):
        start = time.perf_counter()
        try:
            answer = await client.post("/invocations", content=REQUEST, headers=JSON)
        except httpx.TransportError:
            seen.lost += 1
            continue
        if answer.status_code != httpx.codes.OK:
            seen.lost += 1
        else:
            seen.milliseconds.append(1000 * (time.perf_counter() - start))
            _note(answer, truth, seen, champion)
        await asyncio.sleep(max(0.0, start + PAUSE_SECONDS - time.perf_counter()))


def _note(answer: httpx.Response, truth: dict[str, str], seen: Seen, champion: str) -> None:
    says = [number for number, text in truth.items() if answer.text == text]
    named = answer.headers.get("x-lclsc-version")
    if len(says) != 1 or named not in (None, says[0]):
        seen.strange += 1
        return
    seen.versions[says[0]] = seen.versions.get(says[0], 0) + 1
    if champion:
        seen.after_move += 1
        seen.late += says[0] != champion


async def promoted(store: Registry, url: str, truth: dict[str, str], *, requests: int, moves: int) -> Seen:
    """The load, while the champion moves; with no ``moves`` to wait for it moves once, before the first request."""
    seen = Seen()
    if not moves:
        await asyncio.to_thread(store.set_alias, "champion", "2")
        return await load(url, truth, enough=lambda s: len(s.milliseconds) >= requests, seen=seen, champion="2")
    mover = asyncio.create_task(_move(store, url, seen, moves))
    return await load(url, truth, enough=lambda s: len(s.milliseconds) >= requests and mover.done(), seen=seen)


async def _move(store: Registry, url: str, seen: Seen, moves: int) -> None:
    for turn in range(moves):
        number = ("2", "1")[turn % 2]
        await asyncio.to_thread(store.set_alias, "champion", number)
        await asyncio.to_thread(_wait_for, url, number)
        seen.moves += 1
        await asyncio.sleep(BETWEEN_MOVES_SECONDS)


# ---- servers


@contextlib.contextmanager
def front_door(store: Registry) -> Iterator[str]:
    port = free_port()
    command = [str(BIN / "lclsc"), "serve", "--workspace", str(store.workspace.root), "--port", str(port)]
    with running([*command, "--poll", "0.2"], port) as url:
        yield url


@contextlib.contextmanager
def plain(store: Registry) -> Iterator[str]:
    port = free_port()
    command = [str(BIN / "mlflow"), "models", "serve", "-m", "models:/lclsc@champion", "--env-manager", "local"]
    with running([*command, "--host", "127.0.0.1", "--port", str(port)], port, **drawn_registry.address(store)) as url:
        yield url


@contextlib.contextmanager
def running(command: list[str], port: int, **extra: str) -> Iterator[str]:
    unwanted = ("MLFLOW", "LCLSC")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(unwanted)}
    path = os.pathsep.join([str(BIN), os.environ["PATH"]])
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(
            command,
            env=kept | {"PATH": path, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"} | extra,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        try:
            url = f"http://127.0.0.1:{port}"
            _until_up(url, process, log)
            yield url
        finally:
            os.killpg(process.pid, signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(20)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _until_up(url: str, process: "subprocess.Popen[bytes]", log: "tempfile._TemporaryFileWrapper[str]") -> None:
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(f"{url}/ping", trust_env=False).status_code == httpx.codes.OK:
                return
        time.sleep(0.05)
    log.seek(0)
    raise RuntimeError(log.read()[-2000:])


def _wait_for(url: str, number: str) -> None:
    while httpx.get(f"{url}/version", trust_env=False).json()["version"] != number:
        time.sleep(0.05)


def _alone(store: Registry, number: str, url: str) -> str:
    """What one version says when nothing else goes on."""
    store.set_alias("champion", number)
    _wait_for(url, number)
    return httpx.post(f"{url}/invocations", content=REQUEST, headers=JSON, timeout=60, trust_env=False).text


def _restart_seconds(store: Registry) -> float:
    """From asking a server to end until its successor answers."""
    with plain(store):
        pass
    start = time.perf_counter()
    with plain(store):
        return time.perf_counter() - start


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


if __name__ == "__main__":
    main()
