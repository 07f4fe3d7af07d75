"""Single mutations of a workspace: one thing somebody changed, lost or exchanged behind the system's back.

``mutate(root, seed)`` changes one thing below ``root`` and says what it was: ``kind``, and ``object``, a text
that an audit's failing checks must name. Files are replaced, never written into: a workspace may be a copy by
hard links.
"""

from __future__ import annotations

import hashlib
import json
import random
import re
import shutil
import sqlite3
import subprocess
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import rfc8785


@dataclass(frozen=True)
class Mutation:
    kind: str
    object: str
    """Must occur in the object, or in what was found, of a failing check."""


Mutator = Callable[[Path, random.Random], Mutation]


def mutate(root: Path, seed: int) -> Mutation:
    """The mutation of this seed; kinds take turns, so that every kind gets its share."""
    kinds = sorted(MUTATORS)
    kind = kinds[seed % len(kinds)]
    return MUTATORS[kind](root, random.Random(seed))


def copy(workspace: Path, target: Path) -> Path:
    """A copy that shares the bytes of what does not change; the database is copied, SQLite writes in place."""
    shutil.copytree(
        workspace, target, symlinks=True, copy_function=_link, ignore=shutil.ignore_patterns("locks", "ray")
    )
    replace(target / "mlflow.db", (workspace / "mlflow.db").read_bytes())
    return target


def _link(source: str, target: str) -> None:
    Path(target).hardlink_to(source)


def restore(workspace: Path, changed: Path) -> None:
    """Make a mutated ``copy`` what it was: what is not the very file of the workspace is linked to it again."""
    wanted = {path.relative_to(workspace): path for path in workspace.rglob("*") if path.is_file()}
    for path in [path for path in changed.rglob("*") if path.is_file() or path.is_symlink()]:
        original = wanted.get(path.relative_to(changed))
        if original is None or not path.samefile(original):
            path.unlink()
    for name, original in wanted.items():
        if not (changed / name).exists() and not {"locks", "ray"} & set(name.parts):
            (changed / name).parent.mkdir(parents=True, exist_ok=True)
            _link(str(original), str(changed / name))
    replace(changed / "mlflow.db", (workspace / "mlflow.db").read_bytes())


def replace(path: Path, content: bytes) -> None:
    path.chmod(0o644)
    path.unlink()
    path.write_bytes(content)


# --- files -----------------------------------------------------------------------------------------


def _objects(root: Path, store: str) -> list[Path]:
    """Objects that the last commit names; others, such as those of earlier commits, are nobody's evidence."""
    named = set(
        re.findall(
            r"md5: (\S+)", "".join((root / name).read_text() for name in ("dvc.lock", "videos.dvc", "masks.dvc"))
        )
    )
    listings = [path for path in (root / ".dvc/cache/files/md5").glob("*/*.dir") if _name(path) in named]
    named |= {entry["md5"] for path in listings for entry in json.loads(path.read_bytes())}
    found = (path for path in (root / store / "files" / "md5").rglob("*") if path.is_file() and _name(path) in named)
    return sorted(found)


def _name(path: Path) -> str:
    """An object by its MD5, another file by its name."""
    return path.parent.name + path.name if len(path.parent.name) == 2 else path.name


def _flip(path: Path, chance: random.Random) -> None:
    content = bytearray(path.read_bytes())
    content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    replace(path, bytes(content))


def _truncate(path: Path, chance: random.Random) -> None:
    content = path.read_bytes()
    replace(path, content[: chance.randrange(len(content))])


def _delete(path: Path, _: random.Random) -> None:
    path.unlink()


def _of_object(store: str, change: Callable[[Path, random.Random], None]) -> Mutator:
    def mutator(root: Path, chance: random.Random) -> Mutation:
        victim = chance.choice([path for path in _objects(root, store) if path.stat().st_size])
        change(victim, chance)
        return Mutation(f"{change.__name__.strip('_')} {store}", _name(victim))

    return mutator


def _swap(store: str) -> Mutator:
    def mutator(root: Path, chance: random.Random) -> Mutation:
        one, two = chance.sample(_objects(root, store), 2)
        first, second = one.read_bytes(), two.read_bytes()
        replace(one, second)
        replace(two, first)
        return Mutation(f"swap {store}", _name(one))

    return mutator


def _rename(store: str) -> Mutator:
    def mutator(root: Path, chance: random.Random) -> Mutation:
        victim = chance.choice(_objects(root, store))
        victim.rename(victim.with_name(victim.name[::-1]))
        return Mutation(f"rename {store}", _name(victim))

    return mutator


def _in_place(
    change: Callable[[Path, random.Random], None], folders: tuple[str, ...] = ("videos", "masks", "data", "models")
) -> Mutator:
    """What the next stage would read, in the workspace itself."""

    def mutator(root: Path, chance: random.Random) -> Mutation:
        files = sorted(path for folder in folders for path in (root / folder).rglob("*") if path.is_file())
        victim = chance.choice([path for path in files if path.stat().st_size and path.name[0] != "."])
        change(victim, chance)
        return Mutation(f"{change.__name__.strip('_')} a file in its place", str(victim.relative_to(root)))

    return mutator


def _package_files(root: Path) -> list[Path]:
    package = _package(root)
    return sorted(path for path in package.rglob("*") if path.is_file() and path.stat().st_size)


def _package(root: Path) -> Path:
    (package,) = root.glob("mlartifacts/models/*/artifacts")
    return package


def _of_package(change: Callable[[Path, random.Random], None]) -> Mutator:
    def mutator(root: Path, chance: random.Random) -> Mutation:
        victim = chance.choice(_package_files(root))
        change(victim, chance)
        name = victim.relative_to(_package(root)).as_posix()
        return Mutation(f"{change.__name__.strip('_')} a file of the package", name)

    return mutator


def _package_renamed(root: Path, chance: random.Random) -> Mutation:
    victim = chance.choice(_package_files(root))
    victim.rename(victim.with_name(f"{victim.name}x"))
    return Mutation("rename a file of the package", victim.relative_to(_package(root)).as_posix())


def _package_added(root: Path, chance: random.Random) -> Mutation:
    """A module that Python would find before another one."""
    (_package(root) / "code" / "numpy.py").write_bytes(chance.randbytes(40))
    return Mutation("add a file to the package", "code/numpy.py")


def _packages_swapped(root: Path, chance: random.Random) -> Mutation:
    one, two = chance.sample([path for path in _package_files(root) if "pipelines" in path.parts], 2)
    first, second = one.read_bytes(), two.read_bytes()
    replace(one, second)
    replace(two, first)
    return Mutation("swap two files of the package", one.relative_to(_package(root)).as_posix())


def _weights(root: Path, chance: random.Random) -> Mutation:
    (victim,) = root.glob("mlartifacts/models/*/artifacts/artifacts/model/model.safetensors")
    content = bytearray(victim.read_bytes())
    for _ in range(100):
        content[-1 - chance.randrange(len(content) // 2)] ^= 0xFF
    replace(victim, bytes(content))
    return Mutation("replaced weights", "model.safetensors")


def _of_run(change: Callable[[Path, random.Random], None], names: tuple[str, ...]) -> Mutator:
    def mutator(root: Path, chance: random.Random) -> Mutation:
        name = chance.choice(names)
        (victim,) = root.glob(f"mlartifacts/*/artifacts/{name}")
        change(victim, chance)
        return Mutation(f"{change.__name__.strip('_')} a file kept with the run", name)

    return mutator


def _cell(name: str) -> Mutator:
    def mutator(root: Path, chance: random.Random) -> Mutation:
        path = root / name
        lines = path.read_text().splitlines()
        row = chance.randrange(1, len(lines))
        cells = lines[row].split(",")
        column = chance.randrange(len(cells))
        cells[column] = cells[column][:-1] + ("x" if not cells[column].endswith("x") else "y") if cells[column] else "x"
        lines[row] = ",".join(cells)
        replace(path, ("\n".join(lines) + "\n").encode())
        return Mutation(f"a cell of {name}", name)

    return mutator


def _reorder(name: str) -> Mutator:
    def mutator(root: Path, chance: random.Random) -> Mutation:
        path = root / name
        head, *rows = path.read_text().splitlines()
        one, two = chance.sample(range(len(rows)), 2)
        rows[one], rows[two] = rows[two], rows[one]
        replace(path, ("\n".join([head, *rows]) + "\n").encode())
        return Mutation(f"rows of {name} in another order", name)

    return mutator


def _of_file(name: str, change: Callable[[Path, random.Random], None]) -> Mutator:
    def mutator(root: Path, chance: random.Random) -> Mutation:
        change(root / name, chance)
        return Mutation(f"{change.__name__.strip('_')} {name}", name)

    return mutator


# --- the ledger ------------------------------------------------------------------------------------


def _ledger(change: Callable[[list[bytes], random.Random], None], named: str = "ledger") -> Mutator:
    def mutator(root: Path, chance: random.Random) -> Mutation:
        path = root / "ledger.jsonl"
        lines = path.read_bytes().splitlines()
        change(lines, chance)
        replace(path, b"".join(line + b"\n" for line in lines))
        return Mutation(f"ledger: {change.__name__.strip('_')}", named)

    return mutator


def _line_deleted(lines: list[bytes], chance: random.Random) -> None:
    del lines[chance.randrange(len(lines))]


def _lines_swapped(lines: list[bytes], chance: random.Random) -> None:
    one, two = chance.sample(range(len(lines)), 2)
    lines[one], lines[two] = lines[two], lines[one]


def _line_edited(lines: list[bytes], chance: random.Random) -> None:
    number = chance.randrange(len(lines))
    entry = json.loads(lines[number])
    entry["actor"] += "x"
    lines[number] = rfc8785.dumps(entry)


def _rechained(lines: list[bytes], chance: random.Random) -> None:
    """Drop or edit a line and repair every hash after it, as a forger would."""
    (_line_deleted if chance.random() < 0.5 else _line_edited)(lines, chance)
    _chain(lines)


def _chain(lines: list[bytes]) -> None:
    prev = "0" * 64
    for number, line in enumerate(lines):
        lines[number] = _spelled(json.loads(line) | {"seq": number + 1, "prev": prev})
        prev = hashlib.sha256(lines[number]).hexdigest()


def _spelled(entry: dict[str, Any]) -> bytes:
    """Canonical JSON; what has none, as Python writes it."""
    try:
        return rfc8785.dumps(entry)
    except rfc8785.CanonicalizationError:
        return json.dumps(entry, sort_keys=True, separators=(",", ":")).encode()


def _within(change: Callable[[dict[str, Any], random.Random], None], *, chained: bool) -> Mutator:
    """A key or a value of one line, and, where ``chained``, every hash after it."""

    def mutator(root: Path, chance: random.Random) -> Mutation:
        path = root / "ledger.jsonl"
        lines = path.read_bytes().splitlines()
        number = chance.choice([number for number, line in enumerate(lines) if json.loads(line)["data"]])
        entry = json.loads(lines[number])
        change(entry, chance)
        lines[number] = _spelled(entry)
        if chained:
            _chain(lines)
        replace(path, b"".join(line + b"\n" for line in lines))
        kind = f"ledger: {change.__name__.strip('_')}{', rechained' if chained else ''}"
        return Mutation(kind, f"ledger line {number + 1}")

    return mutator


def _key_renamed(entry: dict[str, Any], chance: random.Random) -> None:
    key = chance.choice(sorted(entry["data"]))
    entry["data"][f"{key[:-1]}{'t' if key[-1] != 't' else 'u'}"] = entry["data"].pop(key)


def _data_null(entry: dict[str, Any], _: random.Random) -> None:
    entry["data"] = None


def _nan(entry: dict[str, Any], chance: random.Random) -> None:
    entry["data"][chance.choice(sorted(entry["data"]))] = float("nan")


def _huge_integer(entry: dict[str, Any], chance: random.Random) -> None:
    entry["data"][chance.choice(sorted(entry["data"]))] = 2**53 + chance.randrange(2**20)


def _lone_surrogate(entry: dict[str, Any], chance: random.Random) -> None:
    entry["data"][chance.choice(sorted(entry["data"]))] = "\ud800"


# --- git ---------------------------------------------------------------------------------------------


def _ledger_rewritten_with_git(root: Path, chance: random.Random) -> Mutation:
    """A forged line, every hash after it repaired, and a last commit that has never held another ledger."""
    _ledger(_rechained)(root, chance)
    _git(root, "update-index", "ledger.jsonl")
    _rewrite_last_commit(root, parents=["-p", "HEAD~1"])
    return Mutation("ledger: rewritten with git", "ledger line")


def _history_dropped(root: Path, _: random.Random) -> Mutation:
    """All files as they are, in one commit without a past."""
    built = json.loads((_package(root) / "lineage.json").read_bytes())["git_commit"]
    _rewrite_last_commit(root, parents=[])
    return Mutation("git: history dropped", f"commit {built[:12]}")


def _rewrite_last_commit(root: Path, *, parents: list[str]) -> None:
    """By plumbing: a commit by hand would write into git's logs, which are not the copy's own."""
    tree = _git(root, "write-tree")
    commit = _git(
        root, "-c", "user.name=forger", "-c", "user.email=f@example.org", "commit-tree", tree, *parents, "-m", "x"
    )
    replace(root / ".git" / _git(root, "symbolic-ref", "HEAD"), f"{commit}\n".encode())


def _params_broken(root: Path, chance: random.Random) -> Mutation:
    """A params.yaml that nobody can read, committed on top."""
    path = root / "params.yaml"
    broken = (b"\nregister:\n", b"\ntrain: [\n", b"\n\xff\n", b"\n- a list\n")
    replace(path, path.read_bytes() + chance.choice(broken))
    _git(root, "update-index", "params.yaml")
    _rewrite_last_commit(root, parents=["-p", "HEAD"])
    return Mutation("git: a broken params.yaml", "params.yaml")


def _git(root: Path, *arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def _git_object(root: Path, chance: random.Random) -> Mutation:
    names = sorted(line.split()[0] for line in _git(root, "rev-list", "--objects", "--all").splitlines())
    name = chance.choice(names)  # what no commit reaches is nobody's evidence
    victim = root / ".git" / "objects" / name[:2] / name[2:]
    chance.choice((_flip, _truncate, _delete))(victim, chance)
    return Mutation("a damaged object of git", name)


# --- the registry ----------------------------------------------------------------------------------


def _execute(root: Path, statement: str, *values: object) -> None:
    with closing(sqlite3.connect(root / "mlflow.db")) as database, database:
        assert database.execute(statement, values).rowcount > 0


def _alias_moved(root: Path, _: random.Random) -> Mutation:
    _execute(root, "UPDATE registered_model_aliases SET alias = 'challenger' WHERE alias = 'champion'")
    return Mutation("an alias set behind the ledger's back", "alias champion")


def _alias_deleted(root: Path, _: random.Random) -> Mutation:
    _execute(root, "DELETE FROM registered_model_aliases")
    return Mutation("an alias deleted", "alias champion")


def _version_tag(root: Path, chance: random.Random) -> Mutation:
    name = chance.choice(["registration", "gate", "gate_sha256", *TAGS])
    value = {"registration": "begun", "metrics": '{"macro_f1":1}', "git_commit": "HEAD"}.get(name, "0" * 64)
    _execute(root, "UPDATE model_version_tags SET value = ? WHERE key = ?", value, name)
    named = {"registration": "version 1, in the registry", "git_commit": "commit"}.get(name, f"tag {name} of version 1")
    return Mutation(f"tag {name} of the version", named)


def _version_tag_deleted(*names: str) -> Mutator:
    def mutator(root: Path, chance: random.Random) -> Mutation:
        name = chance.choice(names)
        _execute(root, "DELETE FROM model_version_tags WHERE key = ?", name)
        return Mutation(f"tag {name} of the version deleted", f"tag {name} of version 1")

    return mutator


def _tag_of(table: str, carrier: str) -> Mutator:
    def mutator(root: Path, chance: random.Random) -> Mutation:
        name = chance.choice(TAGS)
        if chance.random() < 0.5:
            _execute(root, f"UPDATE {table} SET {_column(table)} = ? WHERE {_key(table)} = ?", "0" * 64, name)
        else:
            _execute(root, f"DELETE FROM {table} WHERE {_key(table)} = ?", name)
        return Mutation(f"tag {name} of the {carrier}", f"tag {name} of ")

    return mutator


def _mark(name: str) -> Mutator:
    """A tag of the registered model itself."""

    def mutator(root: Path, chance: random.Random) -> Mutation:
        if chance.random() < 0.5:
            _execute(root, "UPDATE registered_model_tags SET value = ? WHERE key = ?", f"{chance.random()}", name)
        else:
            _execute(root, "DELETE FROM registered_model_tags WHERE key = ?", name)
        return Mutation(f"tag {name} of the model", f"tag {name} of the model")

    return mutator


def _column(table: str) -> str:
    return "tag_value" if table == "logged_model_tags" else "value"


def _key(table: str) -> str:
    return "tag_key" if table == "logged_model_tags" else "key"


def _param(root: Path, chance: random.Random) -> Mutation:
    name = _any_key(root, "params", chance)
    _execute(root, "UPDATE params SET value = '7777' WHERE key = ?", name)
    return Mutation(f"parameter {name} of the run", f"parameter {name} ")


def _metric(root: Path, chance: random.Random) -> Mutation:
    """As a person would see it on MLflow's page: one of the figures that evaluation gave."""
    record = json.loads((_package(root) / "lineage.json").read_bytes())
    name = chance.choice(sorted(name for name, value in record["metrics"].items() if value is not None))
    for table in ("metrics", "latest_metrics"):
        _execute(root, f"UPDATE {table} SET value = value + 0.125 WHERE key = ?", name)
    return Mutation(f"metric {name} of the run", f"metric {name} ")


def _model_exchanged(root: Path, chance: random.Random) -> Mutation:
    """The registry points elsewhere: to another model, run or place."""
    statement, named = chance.choice(
        [
            ("UPDATE model_versions SET source = 'models:/m-' || hex(randomblob(16))", "version 1"),
            ("UPDATE model_versions SET run_id = lower(hex(randomblob(16)))", "version 1"),
            ("UPDATE logged_models SET artifact_location = artifact_location || 'x'", "lineage.json in the package"),
        ]
    )
    _execute(root, statement)
    return Mutation("the registry points elsewhere", named)


def _any_key(root: Path, table: str, chance: random.Random) -> str:
    with closing(sqlite3.connect(root / "mlflow.db")) as database:
        return str(chance.choice(sorted(row[0] for row in database.execute(f"SELECT DISTINCT key FROM {table}"))))


TAGS = (
    "retrain.key",
    "train.key",
    "data_version",
    "git_commit",
    "weights_sha256",
    "package_sha256",
    "lineage_sha256",
    "platform",
    "metrics",
)
OWN_FILES = (
    "params.yaml",
    "dvc.lock",
    "dvc.yaml",
    "code.json",
    "videos.dvc",
    "masks.dvc",
    "manifest.csv",
    "workspace.json",
    "prefect.yaml",
    ".dvc/config",
)
RUN_FILES = ("lineage.json", "gate.json", "extract.json", "train.json", "evaluate.json", "predictions.parquet")
PAGE_FILES = ("report.html", "saliency_sheet.png", "confusion_matrix.svg")
STORES = (".dvc/cache", "remotes/storage", "remotes/identified")

MUTATORS: dict[str, Mutator] = {
    **{
        f"{change.__name__} {store}": _of_object(store, change)
        for store in STORES
        for change in (_flip, _truncate, _delete)
    },
    **{f"swap {store}": _swap(store) for store in STORES},
    **{f"rename {store}": _rename(store) for store in STORES},
    **{f"in place {change.__name__}": _in_place(change) for change in (_flip, _truncate)},
    "in place _delete": _in_place(_delete, ("videos", "masks")),
    **{f"package {change.__name__}": _of_package(change) for change in (_flip, _truncate, _delete)},
    "package renamed": _package_renamed,
    "package added": _package_added,
    "package swapped": _packages_swapped,
    "weights": _weights,
    **{f"run {change.__name__}": _of_run(change, RUN_FILES) for change in (_flip, _truncate, _delete)},
    **{f"page {change.__name__}": _of_run(change, PAGE_FILES) for change in (_flip, _truncate, _delete)},
    **{f"cell {name}": _cell(name) for name in ("manifest.csv", "splits.csv", "provenance.csv")},
    **{f"reorder {name}": _reorder(name) for name in ("manifest.csv", "splits.csv", "provenance.csv")},
    **{
        f"{change.__name__} {name}": _of_file(name, change)
        for name in OWN_FILES
        for change in (_flip, _truncate, _delete)
    },
    **{
        f"ledger {change.__name__}": _ledger(change)
        for change in (_line_deleted, _lines_swapped, _line_edited, _rechained)
    },
    **{
        f"ledger {change.__name__}{' rechained' if chained else ''}": _within(change, chained=chained)
        for change in (_key_renamed, _data_null, _nan, _huge_integer, _lone_surrogate)
        for chained in (False, True)
    },
    "ledger rewritten with git": _ledger_rewritten_with_git,
    "git object": _git_object,
    "git history dropped": _history_dropped,
    "git params broken": _params_broken,
    "alias moved": _alias_moved,
    "alias deleted": _alias_deleted,
    "version tag": _version_tag,
    "version tag deleted": _version_tag_deleted("gate", "gate_sha256", *TAGS),
    "version tag git_commit deleted": _version_tag_deleted("git_commit"),
    "run tag": _tag_of("tags", "run"),
    "model tag": _tag_of("logged_model_tags", "model"),
    "mark promoting_workspace": _mark("promoting_workspace"),
    "mark ledger_head": _mark("ledger_head"),
    "param": _param,
    "metric": _metric,
    "model exchanged": _model_exchanged,
}
