"""The front door: MLflow's paths, with a version on every answer, a token, a size cap and time limits.

POST /invocations   passed to the active version, both bodies streamed
GET  /ping          200 while a version answers
GET  /health        the same, with the version and what is wrong, as JSON
GET  /version       which version answers, its hashes, since when
"""

from __future__ import annotations

import asyncio
import hmac
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import httpx
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from pipelines.serving.backend import Backend
from pipelines.serving.rotation import Rotation
from pipelines.serving.terms import MIB, Terms

log = logging.getLogger(__name__)

GRACE_SECONDS = 5.0  # beyond the version's own limit, whose answer says more
ERROR_BYTES = 1 * MIB
FORWARDED = ("content-type", "content-length")
CAUSE = "\nError: "
"""MLflow puts the whole request before it."""

Handler = Callable[[Request], Awaitable[Response]]


class TooLargeError(Exception):
    """The request's body is larger than allowed."""


def build(rotation: Rotation, terms: Terms) -> Starlette:
    door = FrontDoor(rotation, terms)
    routes = [
        Route("/ping", door.ping),
        Route("/health", door.health),
        Route("/version", door.authorised(door.version)),
        Route("/invocations", door.authorised(door.invocations), methods=["POST"]),
    ]
    # A page in a browser of this machine must not reach the server under a name of its own.
    local = [Middleware(TrustedHostMiddleware, allowed_hosts=["127.0.0.1", "localhost", "[::1]", "::1", terms.host])]
    return Starlette(routes=routes, middleware=local if terms.is_local else [])


class FrontDoor:
    def __init__(self, rotation: Rotation, terms: Terms) -> None:
        self.rotation, self.terms = rotation, terms

    def authorised(self, handler: Handler) -> Handler:
        """Only with the token, where there is one."""

        async def checked(request: Request) -> Response:
            given = request.headers.get("authorization", "")
            if self.terms.token and not hmac.compare_digest(given.encode(), f"Bearer {self.terms.token}".encode()):
                return _refusal(401, "UNAUTHENTICATED", "Send the header `Authorization: Bearer TOKEN`.")
            return await handler(request)

        return checked

    async def ping(self, request: Request) -> Response:
        return PlainTextResponse("\n", 200 if self.rotation.active else 503)

    async def health(self, request: Request) -> Response:
        return JSONResponse(self.rotation.report(), 200 if self.rotation.active else 503)

    async def version(self, request: Request) -> Response:
        backend = self.rotation.active
        if backend is None:
            return _unavailable()
        found = backend.candidate
        return JSONResponse(
            {
                "version": found.version,
                "model": self.terms.model,
                "weights_sha256": found.weights_sha256,
                "lineage_sha256": found.lineage_sha256,
                "classes": found.classes,
                "since": backend.since,
            }
        )

    async def invocations(self, request: Request) -> Response:
        if "content-type" not in request.headers:
            return _refusal(415, "BAD_REQUEST", "Send the header `Content-Type: application/json`.")
        if _declared_bytes(request) > self.terms.max_body_bytes:
            return self._too_large()
        try:
            backend = await self.rotation.lease()
        except TimeoutError:
            return _unavailable()
        try:
            response = await self._asked(request, backend)
        except BaseException:
            backend.release()
            raise
        if not isinstance(response, _Relay):
            backend.release()
        return response

    async def _asked(self, request: Request, backend: Backend) -> Response:
        """The version's answer; whatever goes wrong on the way is an answer too."""
        headers = {name: request.headers[name] for name in FORWARDED if name in request.headers}
        try:
            async with asyncio.timeout(self.terms.request_seconds + GRACE_SECONDS):
                answer = await backend.send(headers, self._capped(request))
                if answer.is_success:
                    return _Relay(answer, backend)
                return await _explained(answer, backend)
        except TooLargeError:
            return self._too_large()
        except TimeoutError:
            return _refusal(504, "TIMEOUT", f"No answer within {self.terms.request_seconds:.0f} s.")
        except ClientDisconnect:
            return Response(status_code=400)  # nobody reads it
        except httpx.TransportError as error:
            log.warning("version %s broke off: %s", backend.version, type(error).__name__)
            return _refusal(502, "INTERNAL_ERROR", f"Version {backend.version} broke off. Send the request again.")

    async def _capped(self, request: Request) -> AsyncIterator[bytes]:
        """The request's body; TooLargeError as soon as it is more than allowed."""
        seen = 0
        async for chunk in request.stream():
            seen += len(chunk)
            if seen > self.terms.max_body_bytes:
                raise TooLargeError
            yield chunk

    def _too_large(self) -> Response:
        allowed = self.terms.max_body_bytes / MIB
        return _refusal(413, "BAD_REQUEST", f"The request is larger than {allowed:g} MiB. Send fewer images at a time.")


class _Relay(StreamingResponse):
    """A good answer on its way to the client. The version is free once all of it is sent, or nobody wants it."""

    def __init__(self, answer: httpx.Response, backend: Backend) -> None:
        kept = {name: answer.headers[name] for name in FORWARDED if name in answer.headers}
        super().__init__(answer.aiter_raw(), answer.status_code, headers=kept | _stamp(backend))
        self.answer, self.backend = answer, backend

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            try:
                await self.answer.aclose()
            finally:
                self.backend.release()


async def _explained(answer: httpx.Response, backend: Backend) -> Response:
    """MLflow's error without the echo of the request; a stack trace goes to the log and not to the client."""
    try:
        said = (await answer.aread())[:ERROR_BYTES]
    finally:
        await answer.aclose()
    found = _parsed(said)
    if trace := found.get("stack_trace"):
        log.error("version %s: %s", backend.version, trace)
    message = str(found.get("message") or said.decode(errors="replace")).rpartition(CAUSE)[2]
    return _refusal(answer.status_code, str(found.get("error_code", "BAD_REQUEST")), message, _stamp(backend))


def _parsed(said: bytes) -> dict[str, Any]:
    try:
        found = json.loads(said)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _stamp(backend: Backend) -> dict[str, str]:
    return {"x-lclsc-version": backend.version, "x-lclsc-weights": backend.candidate.weights_sha256}


def _refusal(status: int, code: str, message: str, headers: dict[str, str] | None = None) -> Response:
    """In MLflow's shape, which its clients understand."""
    more = {401: {"www-authenticate": "Bearer"}, 503: {"retry-after": "1"}}.get(status, {})
    return JSONResponse({"error_code": code, "message": message}, status, headers=(headers or {}) | more)


def _unavailable() -> Response:
    return _refusal(503, "TEMPORARILY_UNAVAILABLE", "No version answers at the moment. See /health.")


def _declared_bytes(request: Request) -> int:
    declared = request.headers.get("content-length", "")
    return int(declared) if declared.isdecimal() else 0
