"""Looks for words in everything below a folder, whatever they are wrapped in."""

from __future__ import annotations

import base64
import io
import sqlite3
import subprocess
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import pyarrow.parquet as pq


def found(root: Path, words: Iterable[str], *, zone: Iterable[Path]) -> list[str]:
    """'where: word as spelling' for every word that lies outside the zone: in files, databases and git's history."""
    spellings = {spelling: f"{word} as {kind}" for word in words for kind, spelling in _spellings(word)}
    wanted, zone = dict(spellings), list(zone)
    places = _contents(root, zone)
    return sorted({f"{where}: {wanted[bytes_]}" for where, content in places for bytes_ in wanted if bytes_ in content})


def _spellings(word: str) -> Iterator[tuple[str, bytes]]:
    """As text of 8 and 16 bits, hexadecimal, and base64 at each of its three alignments; contents are lower-cased."""
    raw = word.encode()
    yield "text", raw.lower()
    yield "utf-16-le", word.lower().encode("utf-16-le")
    yield "utf-16-be", word.lower().encode("utf-16-be")
    yield "hex", raw.hex().encode()
    for shift in range(3):
        padded = base64.b64encode(b"\0" * shift + raw)
        usable = padded[-(-shift * 8 // 6) : (shift + len(raw)) * 8 // 6]
        yield f"base64 at {shift}", usable.lower()


def _contents(root: Path, zone: list[Path]) -> Iterator[tuple[str, bytes]]:
    for path in sorted(root.rglob("*")):
        if any(path.is_relative_to(folder) for folder in zone):
            continue
        name = path.relative_to(root).as_posix()
        yield name, name.lower().encode()
        if path.is_file() and not path.is_symlink():
            yield from _unwrapped(name, path.read_bytes())
    objects = subprocess.run(
        ["git", "-C", str(root), "cat-file", "--batch", "--batch-all-objects"], capture_output=True, check=True
    )
    yield "git objects", objects.stdout.lower()


def _unwrapped(name: str, content: bytes) -> Iterator[tuple[str, bytes]]:
    """The bytes, and what they hold packed: members of archives, columns of Parquet, rows of SQLite."""
    yield name, content.lower()
    if content.startswith(b"PK\x03\x04"):
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            for member in archive.namelist():
                yield from _unwrapped(f"{name}!{member}", archive.read(member))
    if content.startswith(b"PAR1"):
        table = pq.read_table(io.BytesIO(content))
        yield f"{name}!schema", str(table.schema).lower().encode()
        for column in table.column_names:
            yield (
                f"{name}!{column}",
                b"".join(part.to_string(window=10**6).lower().encode() for part in _texts(table[column])),
            )
    if content.startswith(b"SQLite format 3\0"):
        with sqlite3.connect(":memory:") as database:
            database.deserialize(content[:18] + b"\1\1" + content[20:])  # a write-ahead log cannot be opened in memory
            yield f"{name}!rows", "\n".join(database.iterdump()).lower().encode()


def _texts(column: object) -> list[object]:
    return [] if "fixed_shape_tensor" in str(column.type) else [column]  # type: ignore[attr-defined]
