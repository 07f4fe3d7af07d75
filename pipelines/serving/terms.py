"""What a server is started with, checked before anything heavy begins."""

from __future__ import annotations

import ipaddress
import os
from dataclasses import dataclass, field
from pathlib import Path

from pipelines.errors import WrongUseError

TOKEN = "LCLSC_SERVE_TOKEN"  # noqa: S105 (the variable's name)
MIB = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Terms:
    """Where to listen, what to serve, and how long anything may take."""

    host: str = "127.0.0.1"
    port: int = 5001
    model: str = "champion"  # an alias, followed; or a version number, which stays
    token: str | None = field(default=None, repr=False)
    request_seconds: float = 60.0  # of one answer; a retiring version may finish what it began for as long
    max_body_bytes: int = 64 * MIB
    poll_seconds: float = 1.0  # between two looks at the alias
    start_seconds: float = 180.0  # until a new version is warm
    log: Path | None = None  # folder of the prediction log
    retry_seconds: float = 60.0  # before a version that did not start is tried again

    @property
    def is_local(self) -> bool:
        return _is_loopback(self.host)

    @property
    def follows(self) -> bool:
        """An alias moves, a version does not."""
        return not self.model.isdecimal()


def checked(terms: Terms) -> Terms:
    """The same terms. WrongUseError where others could reach the server without a token."""
    if not terms.is_local and not terms.token:
        raise WrongUseError(
            "open_server",
            f"{terms.host} can be reached from other machines, and no token is set.",
            f"Set {TOKEN} to a secret of your own, or listen on 127.0.0.1.",
        )
    return terms


def token_from_environment() -> str | None:
    return os.environ.get(TOKEN) or None


def _is_loopback(host: str) -> bool:
    """A name other than localhost may lead anywhere, so it counts as open."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
