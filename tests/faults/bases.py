"""Real workspaces before each step of the line, made once by the command line: what a point starts from.

Each lies in ``<base>/w`` with its git remote ``<base>/origin.git`` beside it, and is copied before it is used.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import traceback
from collections.abc import Callable
from pathlib import Path

from e2e.line import Line, draw_batches, micro_workspace
from faults import steps

from flows import planning
from pipelines import settings
from pipelines.files import digest, sha256_file
from pipelines.workspace import Workspace

ROOT = Path(__file__).parents[2]


def prepare(room: Path) -> Path:
    """The folder of bases for today's code, with the videos that they take in."""
    folder = room / _sources()
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "more").exists():
        shutil.rmtree(folder / "drawn", ignore_errors=True)
        draw_batches(folder / "drawn")
        for batch in sorted((folder / "drawn").iterdir()):
            batch.rename(folder / batch.name)
    return folder


def _sources() -> str:
    """Names all code of the product and of these tests: nothing that other code made or said is taken."""
    files = [path for name in ("lclsc", "pipelines", "flows") for path in (ROOT / name).rglob("*.py")]
    files += list(Path(__file__).parent.glob("*.py"))
    return digest([sha256_file(path) for path in sorted(files)])[:12]


def base(folder: Path, name: str) -> Path:
    """A base, made from the nearest one before it if it is not there."""
    if not (folder / name).exists():
        with (folder / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            _make(folder, name)
    return folder / name


def _make(folder: Path, name: str) -> None:
    making = _making()
    before = [*making][: [*making].index(name)]
    if (folder / name).exists():
        return
    if before:
        _make(folder, before[-1])
    draft = folder / "draft"
    shutil.rmtree(draft, ignore_errors=True)
    if before:
        copy(folder / before[-1], draft)
    making[name](folder, Line(draft / "w", folder / "patients.key"))
    draft.rename(folder / name)


def copy(base: Path, case: Path) -> Workspace:
    """A real copy: git appends to its logs, SQLite writes in place."""
    case.mkdir(parents=True)
    for name in ("w", "origin.git"):
        subprocess.run(["cp", "-a", str(base / name), str(case / name)], check=True)
    return Workspace.open(case / "w")


def _making() -> dict[str, Callable[[Path, Line], None]]:
    """Each base from the one before it: a champion, then new videos, then stage after stage, then a challenger."""
    return {
        "empty": _empty,
        "one": _first_version,
        "in": _taken_in,
        "extract": lambda _, line: _by_step(line, "extract"),
        "train": lambda _, line: line.tool("dvc", "repro", "--quiet", "--single-item", "train", extra=_site(line)),
        "evaluate": lambda _, line: _by_step(line, "evaluate"),
        "stored": lambda _, line: _in_a_child(line, steps.STEPS["store"].run),
        "whole": _second_version,
    }


def _empty(folder: Path, line: Line) -> None:
    micro_workspace(line.root, folder / "patients.key")
    line.tool("git", "commit", "--quiet", "--all", "--message", "A micro preset")
    with_origin(line)


def with_origin(line: Line) -> None:
    """A git remote beside it."""
    subprocess.run(["git", "init", "--quiet", "--bare", str(line.root.parent / "origin.git")], check=True)
    line.tool("git", "remote", "add", "origin", "../origin.git")
    line.tool("git", "push", "--quiet", "origin", "HEAD:refs/heads/main")


def _first_version(folder: Path, line: Line) -> None:
    line.json("intake", str(folder / "first"))
    assert line.json("retrain")["aliases"] == ["champion"]
    _others_push(line, "to-be-taken-over.md")


def _taken_in(folder: Path, line: Line) -> None:
    """While the git host was away; when it came back, others pushed first."""
    host = line.root.parent / "origin.git"
    away = host.rename(host.with_name("away"))
    line.json("intake", str(folder / "more"))
    away.rename(host)
    _others_push(line, "to-be-joined.md")


def _others_push(line: Line, name: str) -> None:
    other = line.root.parent / "other"
    line.tool("git", "clone", "--quiet", "--branch", "main", "../origin.git", str(other))
    (other / name).write_text("Somebody else's.\n")
    line.tool("git", "add", name, cwd=other)
    who = ("-c", "user.name=Somebody", "-c", "user.email=somebody@example.org")
    line.tool("git", *who, "commit", "--quiet", "--message", name, cwd=other)
    line.tool("git", "push", "--quiet", "origin", "HEAD:refs/heads/main", cwd=other)
    shutil.rmtree(other)


def _second_version(folder: Path, line: Line) -> None:
    """Its scores are kept for the base before it: scoring packages again at every point would cost the most."""
    _in_a_child(line, steps.STEPS["register"].run)
    scores = Path(".state") / "scores"
    shutil.copytree(line.root / scores, folder / "stored" / "w" / scores, dirs_exist_ok=True)


def _by_step(line: Line, stage: str) -> None:
    """As ``dvc repro`` would, without Ray: the stage, then its entry in dvc.lock."""
    _in_a_child(line, planning.record_inputs)
    _in_a_child(line, steps.STEPS[stage].run)
    line.tool("dvc", "commit", "--quiet", "--force", stage, extra=_site(line))


def _site(line: Line) -> dict[str, str]:
    return {"DVC_SITE_CACHE_DIR": str(line.root / ".state" / "dvc-site")}


def _in_a_child(line: Line, step: Callable[[Workspace], object]) -> None:
    """Settings are a process's own."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            place = Workspace.open(line.root)
            os.environ["LCLSC_KEY_FILE"] = line.environment["LCLSC_KEY_FILE"]
            settings.apply(place)
            step(place)
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
