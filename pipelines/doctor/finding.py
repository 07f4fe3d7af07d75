"""One line of the doctor's table."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """What was looked at, and what to do where it is not well.

    ``mend`` does it where that is safe, and says what it did.
    """

    name: str
    ok: bool
    found: str
    remedy: str = ""
    mend: Callable[[], str] | None = None

    def as_json(self) -> dict[str, object]:
        return {
            "name": self.name,
            "ok": self.ok,
            "found": self.found,
            "remedy": "" if self.ok else self.remedy,
            "repairable": self.mend is not None and not self.ok,
        }
