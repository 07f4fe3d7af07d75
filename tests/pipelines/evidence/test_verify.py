"""The independent verifier: quiet on what is sound, and no altered byte gets past it."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import rfc8785
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipelines import ledger, lineage
from pipelines.evidence import verify
from pipelines.workspace import Workspace

NUMBERS = st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(2**53) + 1, 2**53 - 1)
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@pytest.fixture(scope="module")
def sound(package: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a ledger of six events and the package that one of them registered."""
    folder = tmp_path_factory.mktemp("sound")
    workspace = Workspace(folder)
    shutil.copytree(package, folder / "package")
    registered = {"version": "1", "lineage_sha256": lineage.sha256(lineage.read(package)), "commit": "c" * 40}
    move = {"alias": "champion", "from": None, "to": "1"}
    for event, data in (
        ("taken_in", {"videos": ["a" * 64], "patients": 1}),
        ("registered", registered),
        ("gated", {"verdict": "passed", "figure": 0.1 + 0.2}),
        ("alias_intended", move),
        ("alias_intended", move),  # killed in between, and taken up again
        ("promoted", move),
    ):
        ledger.append(workspace, actor="retrain", event=event, subject="version 1", data=data)
    return folder


def findings(folder: Path) -> list[str]:
    return list(verify.check(folder / "ledger.jsonl", [folder / "package"]))


def edit(path: Path, number: int, change: Callable[[dict[str, Any]], None]) -> None:
    """Change one line of a ledger and mend nothing else."""
    lines = path.read_bytes().splitlines()
    entry = json.loads(lines[number])
    change(entry)
    lines[number] = spelled(entry)
    path.write_bytes(b"\n".join(lines) + b"\n")


def spelled(entry: dict[str, Any]) -> bytes:
    """Canonical JSON; what has none, as Python writes it."""
    try:
        return rfc8785.dumps(entry)
    except rfc8785.CanonicalizationError:
        return json.dumps(entry, sort_keys=True, separators=(",", ":")).encode()


def rechain(path: Path) -> None:
    """What a forger would do: number the lines anew and repair every hash."""
    prev, lines = verify.FIRST_PREV, []
    for seq, line in enumerate(path.read_bytes().splitlines(), start=1):
        lines.append(spelled(json.loads(line) | {"seq": seq, "prev": prev}))
        prev = verify.sha256(lines[-1])
    path.write_bytes(b"\n".join(lines) + b"\n")


def test_what_is_sound_is_passed(sound: Path) -> None:
    assert findings(sound) == []


def test_it_runs_alone_and_imports_nothing_of_this_project(sound: Path, tmp_path: Path) -> None:
    script = tmp_path / "verify.py"
    shutil.copyfile(verify.__file__, script)
    command = [sys.executable, "-I", "-S", script, sound / "ledger.jsonl", sound / "package"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "nothing found\n"), done.stderr
    assert len(script.read_text().splitlines()) <= 300


def test_every_kind_of_edit_of_the_ledger_is_found(sound: Path, tmp_path: Path) -> None:
    lines = (sound / "ledger.jsonl").read_bytes().splitlines(keepends=True)
    altered = {
        "deleted": lines[:2] + lines[3:],
        "swapped": [lines[1], lines[0], *lines[2:]],
        "repeated": [*lines[:3], *lines[2:]],
        "cut": [*lines[:-1], lines[-1][:-20]],
        "spaced": [lines[0].replace(b":", b": ", 1), *lines[1:]],
    }
    for name, content in altered.items():
        (tmp_path / "ledger.jsonl").write_bytes(b"".join(content))
        assert list(verify.check(tmp_path / "ledger.jsonl", [])), name


def test_a_chain_forged_anew_still_misses_the_event_of_the_package(sound: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(sound, tmp_path / "copy"))
    edit(folder / "ledger.jsonl", 1, lambda entry: entry["data"].update(lineage_sha256="0" * 64))
    rechain(folder / "ledger.jsonl")
    assert [finding for finding in findings(folder) if "was never registered" in finding]


EDITS: dict[str, Callable[[dict[str, Any]], object]] = {
    "alias renamed": lambda entry: entry["data"].update(aliat=entry["data"].pop("alias")),
    "from renamed": lambda entry: entry["data"].update(fron=entry["data"].pop("from")),
    "to is a list": lambda entry: entry["data"].update(to=["1"]),
    "alias is a list": lambda entry: entry["data"].update(alias=["champion"]),
    "event renamed": lambda entry: entry.update(evenu=entry.pop("event")),
    "data is null": lambda entry: entry.update(data=None),
    "actor is a number": lambda entry: entry.update(actor=6),
    "NaN": lambda entry: entry["data"].update(to=float("nan")),
    "infinite": lambda entry: entry["data"].update(to=float("inf")),
    "a huge integer": lambda entry: entry["data"].update(more=2**53),
    "a lone surrogate": lambda entry: entry.update(subject="\ud800"),
}


@pytest.mark.parametrize("kind", EDITS)
@pytest.mark.parametrize("chained", [False, True])
def test_an_edited_key_or_value_of_a_line_is_named(sound: Path, tmp_path: Path, kind: str, chained: bool) -> None:
    path = Path(shutil.copy(sound / "ledger.jsonl", tmp_path))
    edit(path, 5, EDITS[kind])
    if chained:
        rechain(path)
    named = [finding for finding in verify.check(path, []) if finding.startswith("ledger line 6: ")]
    assert named


def test_a_line_nested_too_deeply_is_named(sound: Path, tmp_path: Path) -> None:
    path = Path(shutil.copy(sound / "ledger.jsonl", tmp_path))
    path.write_bytes(path.read_bytes() + b"[" * 100_000 + b"\n")
    assert list(verify.check(path, [])) == ["ledger line 7: is not JSON"]


def test_a_registration_that_names_no_hash_is_no_package_s(sound: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(sound, tmp_path / "copy"))
    edit(folder / "ledger.jsonl", 1, lambda entry: entry["data"].update(lineage_sha256=["0" * 64]))
    rechain(folder / "ledger.jsonl")
    assert [finding for finding in findings(folder) if "was never registered" in finding]


def test_an_unfinished_move_of_an_alias_is_named(sound: Path, tmp_path: Path) -> None:
    lines = (sound / "ledger.jsonl").read_bytes().splitlines(keepends=True)
    (tmp_path / "ledger.jsonl").write_bytes(b"".join(lines[:-1]))
    assert list(verify.check(tmp_path / "ledger.jsonl", [])) == ["ledger line 5: the move of champion is unfinished"]


@pytest.mark.parametrize("seed", range(60))
def test_one_flipped_bit_anywhere_is_found(sound: Path, tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    folder = Path(shutil.copytree(sound, tmp_path / "copy"))
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    victim = chance.choice([path for path in files if path.stat().st_size])
    content = bytearray(victim.read_bytes())
    content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    victim.write_bytes(content)
    assert findings(folder), victim.name


@pytest.mark.parametrize(
    "name", ["MLmodel", "SHA256SUMS", "code/lclsc/model.py", "requirements.txt", "source.tar", "training_videos.json"]
)
def test_the_file_of_a_package_that_was_changed_is_named(sound: Path, tmp_path: Path, name: str) -> None:
    folder = Path(shutil.copytree(sound, tmp_path / "copy"))
    path = folder / "package" / name
    path.write_bytes(path.read_bytes()[:-3])
    named = [finding for finding in findings(folder) if finding.startswith(f"package: {name} ")]
    assert len(named) == 1
    path.rename(path.with_name("elsewhere"))
    assert [finding for finding in findings(folder) if finding.startswith(f"package: {name} is missing")]


@settings(suppress_health_check=[HealthCheck.too_slow])  # of a busy machine
@given(VALUES)
def test_its_canonical_json_is_rfc_8785(value: Any) -> None:
    try:
        value = json.loads(json.dumps(value))
        expected = rfc8785.dumps(value)
    except (UnicodeEncodeError, rfc8785.CanonicalizationError):
        return  # lone surrogates and integers beyond 2**53 have no canonical form
    assert verify.canonical(value) == expected
