"""Which version answers: follow the alias, start the new one, warm it, switch, drain the old one.

All of it runs in one event loop, so a switch is one assignment between two requests.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from pipelines.errors import LclscError, unexpected
from pipelines.serving.backend import Backend
from pipelines.serving.candidate import Candidate
from pipelines.serving.terms import Terms

log = logging.getLogger(__name__)

Start = Callable[[Backend], Awaitable[None]]


class Wanted(Protocol):
    """The registry, or a stand-in for it."""

    def wanted(self) -> str: ...

    def fetch(self, number: str) -> Candidate: ...

    def concern(self, number: str) -> str | None: ...


@dataclass(frozen=True)
class Failed:
    version: str
    retry_at: float  # monotonic


class Rotation:
    """``active`` answers; there is none before the first start, and for a moment after one crashed."""

    def __init__(self, source: Wanted, terms: Terms, folder: Path, start: Start = Backend.start) -> None:
        self.source, self.terms, self.folder, self._start = source, terms, folder, start
        self.active: Backend | None = None
        self.problem: str | None = None
        self._failed: Failed | None = None
        self._ready, self._lost = asyncio.Event(), asyncio.Event()
        self._numbers = itertools.count()
        self._retiring: dict[asyncio.Task[None], Backend] = {}
        self._watching: set[asyncio.Task[None]] = set()

    async def begin(self) -> None:
        """The first version; without one there is no server."""
        self._switch(await self._started(await asyncio.to_thread(self.source.wanted)))

    async def follow(self) -> None:
        """Look at the alias again and again, at once when the active version ended. Runs until it is cancelled."""
        while True:
            await self._pause()
            try:
                await self._look()
            except LclscError as error:
                self._trouble(f"{error.cause} {error.remedy}")
            except Exception as error:  # nothing that happens here may stop the server
                log.exception("following the alias")
                self._trouble(unexpected(error).cause)

    async def lease(self) -> Backend:
        """The version for one request, which gives it back by ``release``. TimeoutError where there is none."""
        async with asyncio.timeout(self.terms.request_seconds):
            while self.active is None:
                await self._ready.wait()
        self.active.lease()
        return self.active

    async def close(self) -> None:
        """End every process; what still runs was waited for by the front door."""
        active, self.active = self.active, None
        self._ready.clear()  # who asks now waits, and is told that there is none
        retiring = dict(self._retiring)
        for task in (*retiring, *self._watching):
            task.cancel()
        await asyncio.gather(*retiring, *self._watching, return_exceptions=True)
        for backend in (active, *retiring.values()):
            if backend is not None:
                await backend.end()

    def report(self) -> dict[str, Any]:
        """What /health says."""
        active = self.active
        state = "unavailable" if active is None else "degraded" if self.problem else "ok"
        return {
            "status": state,
            "version": active.version if active else None,
            "problem": self.problem,
            "remarks": list(active.candidate.remarks) if active else [],
            "under_way": active.leases if active else 0,
            "draining": len(self._retiring),
        }

    async def _pause(self) -> None:
        """Until the next look."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._lost.wait(), self.terms.poll_seconds)
        self._lost.clear()

    async def _look(self) -> None:
        number = await asyncio.to_thread(self.source.wanted)
        if self.active is not None and number == self.active.version:
            self._failed = None
            concern = await asyncio.to_thread(self.source.concern, number)
            if self.active is not None:  # else it ended meanwhile
                self._trouble(concern) if concern else self._mended()
            return
        if self._failed and self._failed.version == number and time.monotonic() < self._failed.retry_at:
            return
        try:
            backend = await self._started(number)
        except LclscError:
            self._failed = Failed(number, time.monotonic() + self.terms.retry_seconds)
            raise
        self._failed = None
        try:
            still = await asyncio.to_thread(self.source.wanted)
        except BaseException:  # nobody else knows of it
            await backend.end()
            raise
        if still == number:
            self._switch(backend)
        else:  # it moved on meanwhile
            await backend.end()

    async def _started(self, number: str) -> Backend:
        candidate = await asyncio.to_thread(self.source.fetch, number)
        log.info("version %s starts", number)
        backend = Backend(candidate, self.terms, self.folder / f"{next(self._numbers)}.sock")
        await self._start(backend)
        return backend

    def _switch(self, backend: Backend) -> None:
        old, self.active = self.active, backend
        self._ready.set()
        self._mended()
        watch = asyncio.create_task(self._watch(backend))
        self._watching.add(watch)
        watch.add_done_callback(self._watching.discard)
        log.info("version %s answers (weights %s)", backend.version, backend.candidate.weights_sha256[:12])
        for remark in backend.candidate.remarks:
            log.warning("version %s: %s", backend.version, remark)
        if old is not None:
            self._retire(old)

    async def _watch(self, backend: Backend) -> None:
        """Where its process ends by itself, requests wait for the next one: at once, whatever else is starting."""
        await backend.ended.wait()
        if self.active is not backend:
            return
        self.active = None
        self._ready.clear()
        self._lost.set()
        self._trouble(f"Version {backend.version} ended with code {backend.process.returncode}.")
        self._retire(backend)

    def _retire(self, backend: Backend) -> None:
        task = asyncio.create_task(backend.drain())
        self._retiring[task] = backend
        task.add_done_callback(self._retired)

    def _retired(self, task: asyncio.Task[None]) -> None:
        log.info("version %s is gone", self._retiring.pop(task).version)

    def _trouble(self, problem: str) -> None:
        if problem != self.problem:
            kept = f" Version {self.active.version} goes on." if self.active else ""
            log.warning("%s%s", problem, kept)
        self.problem = problem

    def _mended(self) -> None:
        if self.problem is not None:
            log.info("mended: %s", self.problem)
        self.problem = None
