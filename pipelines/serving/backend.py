"""One version in a process of its own: started, warmed, asked, ended.

The process is MLflow's scoring server on a Unix socket in a private folder: there is no port to race for, and
nobody gets past the front door's token and limits.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sys
from collections import deque
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path

import httpx

from pipelines import ledger, prediction_log
from pipelines.errors import OutsideSystemError
from pipelines.package import child
from pipelines.serving.candidate import Candidate, require_sound_answer
from pipelines.serving.terms import Terms

log = logging.getLogger(__name__)

SERVE_ROOT = "LCLSC_SERVE_ROOT"
IDLE_CONNECTION_SECONDS = 30.0
LOOK_SECONDS = 0.05
GRACE_SECONDS = 10.0  # beyond a version's own time limit
END_SECONDS = 3.0  # between asking a process to end and ending it
LAST_LINES = 5
CHUNK_BYTES, LINE_BYTES = 1 << 16, 4000
WARM_REQUESTS = 2
JSON = {"content-type": "application/json"}


class Backend:
    """A version that answers. ``leases`` counts the requests it still owes an answer."""

    def __init__(self, candidate: Candidate, terms: Terms, socket: Path) -> None:
        self.candidate = candidate
        self.terms = terms
        self.socket = socket
        self.since = ""
        self.leases = 0
        self.idle = asyncio.Event()
        self.idle.set()
        self.ended = asyncio.Event()
        self._said: deque[str] = deque(maxlen=LAST_LINES)
        self._tasks: list[asyncio.Task[None]] = []
        # Without the environment: a proxy of the site must not stand between two processes of one machine.
        transport = httpx.AsyncHTTPTransport(
            uds=str(socket),
            limits=httpx.Limits(max_keepalive_connections=None, keepalive_expiry=IDLE_CONNECTION_SECONDS),
        )
        self.client = httpx.AsyncClient(
            transport=transport, timeout=terms.request_seconds + GRACE_SECONDS, trust_env=False
        )

    @property
    def version(self) -> str:
        return self.candidate.version

    async def start(self, command: Sequence[str] | None = None) -> None:
        """Until it has answered a synthetic request. OutsideSystemError says why it did not; then nothing is left."""
        try:
            async with asyncio.timeout(self.terms.start_seconds):
                await self._spawn(command or child.start_of("serve_child.py", self.candidate.package))
                await self._listening()
                for _ in range(WARM_REQUESTS):
                    await self._warm()
        except TimeoutError:
            await self.end()
            raise self._failure(f"was not ready after {self.terms.start_seconds:.0f} s") from None
        except BaseException:
            await self.end()
            raise
        self.since = ledger.now()

    async def send(self, headers: Mapping[str, str], body: AsyncIterator[bytes]) -> httpx.Response:
        """The answer, its body still to be read."""
        request = self.client.build_request("POST", "http://model/invocations", headers=headers, content=body)
        return await self.client.send(request, stream=True)

    def lease(self) -> None:
        self.leases += 1
        self.idle.clear()

    def release(self) -> None:
        self.leases -= 1
        if not self.leases:
            self.idle.set()

    async def drain(self) -> None:
        """Let it finish what it began, then end it."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.idle.wait(), self.terms.request_seconds)
        await self.end()

    async def end(self) -> None:
        """Nothing happens the second time."""
        await self.client.aclose()
        if not self._tasks:  # it never began
            return
        if not self.ended.is_set():
            with contextlib.suppress(ProcessLookupError):
                self.process.terminate()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.ended.wait(), END_SECONDS)
            with contextlib.suppress(ProcessLookupError):
                self.process.kill()
        _, still = await asyncio.wait(self._tasks, timeout=END_SECONDS)
        for task in still:  # a decoder of its own holds the pipe for a moment longer
            task.cancel()
        self.socket.unlink(missing_ok=True)

    async def _spawn(self, command: Sequence[str]) -> None:
        """From the main thread: Linux ends a child with the thread that started it."""
        self.process = await asyncio.create_subprocess_exec(
            *command,
            str(self.socket),
            str(os.getpid()),
            cwd=self.candidate.package,
            env=self._environment(),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C is for the front door, which lets it finish
        )
        self._tasks = [asyncio.create_task(self._listen()), asyncio.create_task(self._watch())]

    def _environment(self) -> dict[str, str]:
        own = {"MLFLOW_SCORING_SERVER_REQUEST_TIMEOUT": str(max(1, int(self.terms.request_seconds)))}
        if root := os.environ.get(SERVE_ROOT):
            own[SERVE_ROOT] = str(Path(root).resolve())  # it works in another folder
        if self.terms.log is not None:
            own |= {prediction_log.FOLDER: str(self.terms.log.resolve()), prediction_log.VERSION: self.version}
        return child.environment() | own

    async def _listen(self) -> None:
        """What it says goes to our stderr; the last lines are kept, to say why it ended."""
        assert self.process.stdout is not None
        rest = b""
        while chunk := await self.process.stdout.read(CHUNK_BYTES):
            *lines, rest = (rest + chunk).split(b"\n")
            rest = rest[-LINE_BYTES:]  # a line without an end must not fill the memory, nor stop what it says next
            for line in lines:
                self._say(line)
        if rest:
            self._say(rest)

    def _say(self, line: bytes) -> None:
        text = line[-LINE_BYTES:].decode(errors="replace").rstrip()
        self._said.append(text)
        print(f"version {self.version} | {text}", file=sys.stderr, flush=True)

    async def _watch(self) -> None:
        await self.process.wait()
        self.ended.set()

    async def _listening(self) -> None:
        while True:
            if self.ended.is_set():
                await asyncio.wait(self._tasks, timeout=END_SECONDS)
                raise self._failure(f"ended with code {self.process.returncode} ({' '.join(self._said) or 'silent'})")
            if self.socket.exists():
                with contextlib.suppress(httpx.TransportError):
                    if (await self.client.get("http://model/ping")).status_code == httpx.codes.OK:
                        return
            await asyncio.sleep(LOOK_SECONDS)

    async def _warm(self) -> None:
        """The first answer is slow, and shows whether the model works at all."""
        try:
            answer = await self.client.post("http://model/invocations", content=self.candidate.example, headers=JSON)
            if answer.status_code != httpx.codes.OK:
                raise ValueError(f"status {answer.status_code}: {answer.text[:300]}")
            require_sound_answer(self.candidate, answer.content)
        except (httpx.TransportError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise self._failure(f"did not answer its example ({error})") from None

    def _failure(self, what: str) -> OutsideSystemError:
        return OutsideSystemError(
            "version_failed",
            f"Version {self.version} {what}.",
            "If the environment was upgraded since it was built, it may need the older one.",
            transient=True,
        )
