#!/usr/bin/env python3
"""Check a ledger, and model packages against it, with nothing but Python's standard library.

    python verify.py ledger.jsonl [PACKAGE ...]

This file imports nothing of the project whose records it checks: copy it out, read it, run it anywhere.
A ledger is sound when every line is canonical JSON (RFC 8785), numbered 1, 2, 3 ..., names the SHA-256 of
the line before, and every intended move of an alias was carried out. A package is sound when its
lineage.json is canonical, agrees with itself and with the package's files, and stands in the ledger.
The last line has no successor that would give an edit of it away; compare it with git or with a copy.
Prints one line a finding. Exit status: 0 nothing found, 1 something found, 2 wrong use.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import sys
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

FIRST_PREV = "0" * 64
FIELDS = {"seq": int, "prev": str, "at": str, "actor": str, "event": str, "subject": str, "data": dict}
INSTANT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")
SUMS = "SHA256SUMS"
UNLISTED = (SUMS, "lineage.json", "registered_model_meta")
OUTSIDE_TREE = {"MLmodel", "lineage.json", "registered_model_meta"}  # SHA256SUMS lists the first, and is of the tree
MOVES = ("alias_set", "alias_removed", "promoted", "rolled_back")
MOVE_FIELDS: dict[str, tuple[type, ...]] = {"alias": (str,), "from": (str, type(None)), "to": (str, type(None))}
EXACT = 2**53  # JSON's numbers are doubles: integers from here on have no text of their own


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("ledger", type=Path)
    parser.add_argument("packages", type=Path, nargs="*", metavar="PACKAGE")
    arguments = parser.parse_args()
    for path in (arguments.ledger, *(package / "lineage.json" for package in arguments.packages)):
        if not path.is_file():
            parser.error(f"{path} is no file")
    findings = list(check(arguments.ledger, arguments.packages))
    for finding in findings:
        print(finding)
    print(f"{len(findings)} findings" if findings else "nothing found")
    return 1 if findings else 0


def check(ledger: Path, packages: list[Path]) -> Iterator[str]:
    """Findings, one sentence each."""
    entries: list[dict[str, Any]] = []
    yield from ledger_findings(ledger.read_bytes(), entries)
    yield from intent_findings(entries)
    registered = [entry["data"].get("lineage_sha256") for entry in entries if entry["event"] == "registered"]
    for package in packages:
        for finding in package_findings(package, registered):
            yield f"{package.name}: {finding}"


# --- the ledger --------------------------------------------------------------------------------------


def ledger_findings(content: bytes, entries: list[dict[str, Any]]) -> Iterator[str]:
    """What is wrong with the chain; lines that can be read join ``entries``."""
    *lines, rest = content.split(b"\n")
    if rest:
        yield "ledger: the last line is incomplete"
    prev = FIRST_PREV
    for number, line in enumerate(lines, start=1):
        entry, problem = parsed(line)
        if entry is None:
            yield f"ledger line {number}: {problem}"
        else:
            entries.append(entry)
            yield from (f"ledger line {number}: {found}" for found in entry_findings(entry, number, prev))
        prev = sha256(line)


def parsed(line: bytes) -> tuple[dict[str, Any] | None, str]:
    try:
        entry = json.loads(line)
        is_canonical = canonical(entry) == line
    except (ValueError, RecursionError):
        return None, "is not JSON"
    if not isinstance(entry, dict) or set(entry) != set(FIELDS):
        return None, f"does not hold exactly the fields {', '.join(FIELDS)}"
    wrong = [name for name, kind in FIELDS.items() if type(entry[name]) is not kind]
    if wrong:
        return None, f"holds a value of the wrong kind in {', '.join(wrong)}"
    return (entry, "") if is_canonical else (None, "is not canonical JSON")


def entry_findings(entry: dict[str, Any], number: int, prev: str) -> Iterator[str]:
    if entry["seq"] != number:
        yield f"has seq {entry['seq']}"
    if entry["prev"] != prev:
        yield "does not follow from the line before it"
    if not INSTANT.fullmatch(entry["at"]):
        yield f"has the time {entry['at']!r}"


def intent_findings(entries: list[dict[str, Any]]) -> Iterator[str]:
    """Moves of an alias were carried out or abandoned as intended, each from where the one before ended."""
    pending: dict[str, dict[str, Any]] = {}
    stands: dict[str, str | None] = {}
    for entry in entries:
        where, event, data = f"ledger line {entry['seq']}", entry["event"], entry["data"]
        if event not in (*MOVES, "alias_intended", "alias_abandoned"):
            continue
        lacking = [name for name, kinds in MOVE_FIELDS.items() if not isinstance(data.get(name, ...), kinds)]
        if lacking:
            yield f"{where}: does not say of a move: {', '.join(lacking)}"
            continue
        alias = data["alias"]
        intended = pending.get(alias)
        if event == "alias_intended":
            if intended is not None and intended["data"] != data:
                yield f"ledger line {intended['seq']}: the move of {alias} was never finished"
            pending[alias] = entry
        elif intended is not None:
            if data != intended["data"]:
                yield f"{where}: {alias} did not move as intended"
            del pending[alias]
        if event in MOVES:
            if data["from"] != stands.get(alias):
                yield f"{where}: {alias} moved from {data['from']}, not {stands.get(alias)}"
            stands[alias] = data["to"]
    for alias, intended in pending.items():
        yield f"ledger line {intended['seq']}: the move of {alias} is unfinished"


# --- a package ---------------------------------------------------------------------------------------


def package_findings(package: Path, registered: list[Any]) -> Iterator[str]:
    content = (package / "lineage.json").read_bytes()
    try:
        record = json.loads(content)
        is_canonical = canonical(record) == content
    except (ValueError, RecursionError):
        yield "lineage.json is not JSON"
        return
    if not is_canonical:
        yield "lineage.json is not canonical JSON"
    if sha256(content) not in registered:
        yield f"lineage {sha256(content)} was never registered in this ledger"
    yield from record_findings(record, package)


def record_findings(record: Any, package: Path) -> Iterator[str]:
    """Where what the record claims cannot be read, the list of files still names the damaged one."""
    told = set()
    for findings in (claim_findings, file_findings):
        try:
            found = list(findings(record, package))
        except (KeyError, TypeError, AttributeError, ValueError, OSError, RecursionError) as error:
            found = [f"cannot be checked: {type(error).__name__} {error}"]
        yield from (finding for finding in found if finding not in told)
        told.update(found)


def claim_findings(record: Any, package: Path) -> Iterator[str]:
    splits = {split: entry["sha256"] for split, entry in record["data"]["splits"].items()}
    claims = (
        ("data.root_sha256", record["data"]["root_sha256"], sha256(canonical(splits))),
        ("weights_sha256", record["weights_sha256"], weights_sha256(package)),
        ("package_sha256", record["package_sha256"], tree_sha256(package)),
        ("source_tar_sha256", record["source_tar_sha256"], sha256((package / "source.tar").read_bytes())),
        *training_video_claims(splits, package),
    )
    for name, expected, found in claims:
        if expected != found:
            yield f"{name} is {found}, the lineage record says {expected}"


def weights_sha256(package: Path) -> str:
    return sha256((package / "artifacts" / "model" / "model.safetensors").read_bytes())


def training_video_claims(splits: dict[str, str], package: Path) -> Iterator[tuple[str, str, str]]:
    """The lists of videos inside the package are those whose hashes the record gives."""
    for split, videos in json.loads((package / "training_videos.json").read_text(encoding="utf-8")).items():
        yield f"data.splits.{split}", splits[split], sha256(canonical(sorted(videos)))


def tree_sha256(package: Path) -> str:
    """SHA-256 of the canonical JSON of {path: sha256} over the package's files."""
    return tree_of(hashed_files(package))


def tree_of(files: dict[str, str]) -> str:
    return sha256(canonical({path: found for path, found in files.items() if path not in OUTSIDE_TREE}))


def hashed_files(package: Path) -> dict[str, str]:
    """path -> sha256 of every file but byte code."""
    files = {}
    for path in sorted(package.rglob("*")):
        relative = path.relative_to(package)
        if path.is_symlink():
            raise ValueError(f"{relative} is a link")
        if path.is_file() and "__pycache__" not in relative.parts:
            files[relative.as_posix()] = sha256(path.read_bytes())
    return files


def file_findings(record: Any, package: Path) -> Iterator[str]:
    """Files that are not those of SHA256SUMS; or this list itself, where a true one would make the recorded tree.

    The first packages have no such list: nothing speaks for their MLmodel.
    """
    files, package_sha256 = hashed_files(package), record["package_sha256"]
    if SUMS not in files:
        if tree_of(files) != package_sha256:
            yield f"{SUMS} is missing"
        return
    listed = {path: found for path, found in files.items() if path not in UNLISTED}
    sums = "".join(f"{found}  {path}\n" for path, found in listed.items()).encode()
    if (package / SUMS).read_bytes() == sums:
        return
    if tree_of(files | {SUMS: sha256(sums)}) == package_sha256:
        yield f"{SUMS} is not the list of the files, which are those of the record"
        return
    lines = (package / SUMS).read_text("utf-8", errors="replace").splitlines()
    recorded = {path: expected for expected, _, path in (line.partition("  ") for line in lines)}
    for path in sorted(recorded.keys() | listed.keys()):
        if recorded.get(path) != listed.get(path):
            yield f"{path} is {listed.get(path, 'missing')}, {SUMS} says {recorded.get(path, 'nothing of it')}"


# --- bytes -------------------------------------------------------------------------------------------


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def canonical(value: Any) -> bytes:
    """RFC 8785: sorted keys (by UTF-16 units), no spaces, numbers as ECMAScript prints them."""
    return _text(value).encode("utf-8")


def _text(value: Any) -> str:
    if isinstance(value, dict):
        items = sorted(value.items(), key=lambda item: item[0].encode("utf-16-be"))
        return "{" + ",".join(f"{_text(key)}:{_text(item)}" for key, item in items) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(_text, value)) + "]"
    if isinstance(value, float):
        return _number(value)
    if isinstance(value, int) and abs(value) >= EXACT:
        raise ValueError("no canonical JSON for such an integer")
    return json.dumps(value, ensure_ascii=False)


def _number(value: float) -> str:
    """The shortest digits that round back, laid out as ECMAScript's Number::toString does."""
    if value == 0:
        return "0"
    if value != value or value in (float("inf"), float("-inf")):
        raise ValueError("JSON has no such number")
    sign, digits, exponent = Decimal(repr(value)).normalize().as_tuple()
    text, point = "".join(map(str, digits)), len(digits) + int(exponent)
    if 0 < point <= 21:
        body = text.ljust(point, "0") if point >= len(text) else f"{text[:point]}.{text[point:]}"
    elif -6 < point <= 0:
        body = "0." + "0" * -point + text
    else:
        mantissa = text if len(text) == 1 else f"{text[0]}.{text[1:]}"
        body = f"{mantissa}e{point - 1:+d}"
    return "-" * sign + body


if __name__ == "__main__":
    sys.exit(main())
