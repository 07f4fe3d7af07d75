"""Which shards are there and what their bytes are, without reading gigabytes again and again.

An index in ``.state`` remembers each file's SHA-256 with its size, modification time and inode. A file that
looks the same is trusted; one that does not is hashed again. The index is derived: without it all is hashed.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.files import read_json, sha256_file, write_json
from pipelines.workspace import Workspace


class ShardIndex:
    """SHA-256 of the files of a workspace, by their path relative to it."""

    def __init__(self, workspace: Workspace) -> None:
        self.root = workspace.root
        self.path = workspace.state / "shards.json"
        self.entries: dict[str, dict[str, Any]] = self._load()

    def sha256(self, path: Path) -> str:
        """The file's hash, read from it only when it looks other than remembered."""
        look = _look(path)
        name = str(path.relative_to(self.root))
        known = self.entries.get(name)
        if known is None or known["look"] != look:
            known = self.entries[name] = {"look": look, "sha256": sha256_file(path)}
        return str(known["sha256"])

    def verifies(self, path: Path) -> bool:
        """Is the file there, with the bytes it was remembered with, or whole where nothing is remembered?"""
        if not path.exists():
            return False
        before = self.entries.get(str(path.relative_to(self.root)))
        return _is_whole(path) if before is None else self.sha256(path) == before["sha256"]

    def facts(self, path: Path) -> dict[str, Any] | None:
        """What was noted about the file when its bytes were these."""
        entry = self.entries.get(str(path.relative_to(self.root)))
        return entry.get("facts") if entry else None

    def note(self, path: Path, facts: dict[str, Any]) -> None:
        self.sha256(path)
        self.entries[str(path.relative_to(self.root))]["facts"] = facts

    def save(self, keep: set[Path]) -> None:
        names = {str(path.relative_to(self.root)) for path in keep}
        self.entries = {name: entry for name, entry in self.entries.items() if name in names}
        write_json(self.path, self.entries)

    def _load(self) -> dict[str, dict[str, Any]]:
        try:
            return dict(read_json(self.path))
        except (FileNotFoundError, json.JSONDecodeError):
            return {}


def _is_whole(path: Path) -> bool:
    """Every page of a Parquet file agrees with the checksum it was written with."""
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            for group in range(file.num_row_groups):
                file.read_row_group(group)
    except (pa.ArrowException, OSError):
        return False
    return True


def _look(path: Path) -> list[int]:
    stat = path.stat()
    return [stat.st_size, stat.st_mtime_ns, stat.st_ino]
