"""How often a set of test videos has been looked at: every version judged on it makes the next verdict worth less."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from pipelines.files import digest
from pipelines.ledger import Entry


def test_digest(video_ids: Iterable[str]) -> str:
    """Names a set of test videos."""
    return digest(sorted(video_ids))


def count(entries: Sequence[Entry], test_sha256: str, subject: str) -> int:
    """Versions judged on this set, ``subject`` among them; judging one again learns nothing new."""
    judged = {
        entry.subject for entry in entries if entry.event == "gated" and entry.data.get("test_sha256") == test_sha256
    }
    return len(judged | {subject})


def as_json(entries: Sequence[Entry], test_sha256: str, subject: str, *, most: int) -> dict[str, Any]:
    """``warning`` says that new test patients are due."""
    found = count(entries, test_sha256, subject)
    return {"test_sha256": test_sha256, "count": found, "most": most, "warning": found > most}
