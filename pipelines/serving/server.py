"""The server as a whole: its socket, its signals, its order of starting and ending."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import signal
import socket
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import uvicorn

from pipelines.errors import OutsideSystemError, WrongUseError
from pipelines.serving import front_door
from pipelines.serving.rotation import Rotation, Wanted
from pipelines.serving.terms import Terms

MAX_CONNECTIONS = 512
BACKLOG = 2048


def serve(source: Wanted, terms: Terms, announce: Callable[[str], None]) -> None:
    """Serve until SIGTERM or Ctrl-C, and then finish what was begun. ``announce`` gets the address once it answers."""
    with _listening(terms) as door, tempfile.TemporaryDirectory(prefix="lclsc-serve-") as folder:
        asyncio.run(_run(source, terms, door, Path(folder), announce))


async def _run(
    source: Wanted, terms: Terms, door: socket.socket, folder: Path, announce: Callable[[str], None]
) -> None:
    rotation = Rotation(source, terms, folder)
    server = _Server(
        uvicorn.Config(
            front_door.build(rotation, terms),
            log_level="warning",
            access_log=False,
            server_header=False,
            backlog=BACKLOG,
            limit_concurrency=MAX_CONNECTIONS,
            timeout_graceful_shutdown=int(terms.request_seconds) + 10,
        )
    )
    beginning = asyncio.create_task(rotation.begin())
    _on_stop(server, beginning)
    try:
        await beginning
        following = asyncio.create_task(rotation.follow())
        door.listen()  # who reads the address may call at once: callers wait in the queue until uvicorn accepts
        announce(f"http://{_shown(terms.host)}:{door.getsockname()[1]}")
        await server.serve(sockets=[door])
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)
    except asyncio.CancelledError:  # stopped before the first version was warm
        pass
    finally:
        await rotation.close()


class _Server(uvicorn.Server):
    """Signals are handled here from the first second on, also while no server runs yet."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _on_stop(server: uvicorn.Server, beginning: asyncio.Task[None]) -> None:
    def stop(number: int) -> None:
        server.handle_exit(number, None)
        beginning.cancel()

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop, number)


def _listening(terms: Terms) -> socket.socket:
    """Taken before the model starts, so that a port in use costs no minute."""
    family = socket.AF_INET6 if ":" in terms.host else socket.AF_INET
    # With its protocol named, asyncio turns Nagle's algorithm off: else each answer waits 40 ms for an ACK.
    found = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind((terms.host, terms.port))
    except OSError as error:
        found.close()
        if error.errno == errno.EADDRINUSE:
            raise WrongUseError(
                "port_in_use", f"Port {terms.port} is in use.", "Choose another: --port, or 0 for any."
            ) from None
        raise OutsideSystemError(
            "no_socket",
            f"{terms.host}:{terms.port} cannot be listened on: {os.strerror(error.errno or 0)}.",
            "Name an address of this machine and a port above 1023.",
        ) from None
    return found


def _shown(host: str) -> str:
    return f"[{host}]" if ":" in host else host
