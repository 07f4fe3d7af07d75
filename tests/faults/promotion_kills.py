"""Kill -9 at every step of approve, rollback, promote and retrain: a real process, ended before and after each effect.

    python -m faults.promotion_kills [JSONL]     all of them, a line each; goes on where it stopped

An effect is a line of the ledger, a file, a change in MLflow, a command of git; git itself is ended too, in the middle
of its commit. After each kill somebody comes in two copies of what is left: ``doctor --repair`` in one, the same
command again in the other. Then the history must be one line, equal to the ledger, the registry, and what a trigger
inside the database saw.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

from faults import promotions, witness
from faults.children import in_child

from pipelines import promotion, registry, versioning
from pipelines.errors import PromotionError
from pipelines.workspace import Workspace

EFFECTS = {
    "ledger": {"_write"},
    "files": {"write_json"},
    "store": {
        f"Registry.{name}" for name in ("set_alias", "delete_alias", "set_version_tag", "log_artifacts", "complete")
    },
    "versioning": {"git"},
}
"""Module of pipelines/ -> functions; each is killed before it begins and after it ends."""

LINES = Path(__file__).parents[2] / ".faults" / "promotion_kills.jsonl"

HOOKS = ("pre-commit", "reference-transaction")
"""Where git is in the middle of a commit: it holds index.lock, then the branch's lock too."""


def approve(workspace: Workspace) -> None:
    promotion.approve(workspace, "2", by="Ada", reason="better")


def rollback(workspace: Workspace) -> None:
    promotion.rollback(workspace, reason="worse after all", to="1")


def promote(workspace: Workspace) -> None:
    promotions.judge(workspace, "3")
    promotion.keep(workspace, "Judge version 3")


def retrain(workspace: Workspace) -> None:
    """A fourth version, which the policy approves by itself."""
    version = promotions.register(workspace, 3, complete=False)
    promotions.judge(workspace, version.version, actor="retrain")
    promotion.keep(workspace, f"Register version {version.version}")
    registry.connect(workspace).complete(version.version)


COMMANDS: dict[str, Callable[[Workspace], None]] = {
    "approve": approve,
    "rollback": rollback,
    "promote": promote,
    "retrain": retrain,
}
BEFORE = {"champion": "1", "challenger": "2"}
AFTER: dict[str, dict[str, str]] = {
    "approve": {"champion": "2"},
    "rollback": {"champion": "1"},
    "promote": {"champion": "1", "challenger": "3"},
    "retrain": {"champion": "4", "challenger": "2"},
}


class Steps:
    """A profiler that counts effects and ends its process at the ``last``-th, as SIGKILL does."""

    def __init__(self, last: int) -> None:
        self.last = last
        self.names: list[str] = []

    def __call__(self, frame: FrameType, event: str, _: Any) -> None:
        if event not in ("call", "return"):
            return
        path = Path(frame.f_code.co_filename)
        if "pipelines" in path.parts and frame.f_code.co_qualname in EFFECTS.get(path.stem, ()):
            self.names.append(f"{'before' if event == 'call' else 'after'} {path.stem}.{frame.f_code.co_name}")
            if len(self.names) == self.last:
                os.kill(os.getpid(), signal.SIGKILL)


def built(root: Path, database: Path | None = None) -> Workspace:
    """Version 1 is champion, 2 its challenger; 3 is registered, 4 trained. A trigger watches the database."""
    workspace = promotions.build(root, versions=3, database=database, witness=witness.install)
    promotions.judge(workspace, "2")
    promotions.package(workspace, 3)
    promotion.keep(workspace, "Judge version 2")
    return workspace


def prepared(base: Workspace, command: str, root: Path) -> Workspace:
    """Where ``command`` makes sense."""
    workspace = promotions.copy(base, root)
    if command == "rollback":
        approve(workspace)
    if command == "retrain":
        promotions.set_policy(workspace, approval="auto")
    return workspace


def kill_points(template: Workspace, command: str, folder: Path) -> list[str]:
    """Every step of an undisturbed run, in words, and the places inside git."""
    whole = promotions.copy(template, folder / "whole")
    names = list(in_child(_traced, whole, command, 0)["steps"])
    promotions.remove(whole)
    return [*names, *(f"inside git: {hook}" for hook in HOOKS)]


def killed(template: Workspace, command: str, point: int, name: str, folder: Path) -> list[str]:
    """Kill ``command`` there, let somebody else come, and say what is wrong then."""
    left = promotions.copy(template, folder / "left")
    if name.startswith("inside git"):
        _end_git_at(left, name.removeprefix("inside git: "))
    ended = in_child(_traced, left, command, point)
    if ended != {"signal": signal.SIGKILL}:
        return [f"was to be killed, and ended with {ended}"]
    found = []
    for who, comes in (("repair", _repair), ("again", COMMANDS[command])):
        workspace = promotions.copy(left, folder / who)
        _a_minute_passes(workspace)
        found += [f"{who}: {problem}" for problem in _after(workspace, command, comes)]
        promotions.remove(workspace)
    promotions.remove(left)
    return found


def _after(workspace: Workspace, command: str, comes: Callable[[Workspace], None]) -> Iterator[str]:
    told = in_child(_come, workspace, comes)
    yield from told["problems"]
    before = {"champion": "2"} if command == "rollback" else BEFORE
    if told["aliases"] not in (before, AFTER[command]):
        yield f"the aliases are {told['aliases']}"
    if comes is _repair:  # which leaves a workspace where the command can be given
        told = in_child(_come, workspace, COMMANDS[command])
        yield from (f"and then the command: {problem}" for problem in told["problems"])
    if told["aliases"] != AFTER[command]:
        yield f"the command was given again, and the aliases are {told['aliases']}"


def _traced(workspace: Workspace, command: str, last: int) -> dict[str, Any]:
    steps = Steps(last)
    sys.setprofile(steps)
    COMMANDS[command](workspace)
    sys.setprofile(None)
    return {"steps": steps.names}


def _repair(workspace: Workspace) -> None:
    assert promotions.repair(workspace) is not None


def _come(workspace: Workspace, command: Callable[[Workspace], None]) -> dict[str, Any]:
    """The first may be told that the killed one was through already; nobody else may be stopped."""
    found = []
    try:
        command(workspace)
    except PromotionError as error:
        if error.code != "champion_already":
            found = [f"{error.code}: {error}"]
    return {"problems": found + witness.problems(workspace), "aliases": registry.connect(workspace).aliases()}


def _end_git_at(workspace: Workspace, hook: str) -> None:
    """The hook ends everybody in the session of its process: the command, git, itself."""
    path = Path(versioning.git(workspace, "rev-parse", "--git-path", f"hooks/{hook}"))
    path = workspace.root / path
    path.parent.mkdir(exist_ok=True)
    path.write_text('#!/bin/sh\nrm "$0"\nkill -9 -$(ps -o sid= $$ | tr -d " ")\n')
    path.chmod(0o755)


def _a_minute_passes(workspace: Workspace) -> None:
    """A lock of git is taken for a leftover when it is a minute old."""
    for path in (workspace.root / ".git").rglob("*.lock"):
        os.utime(path, (path.stat().st_mtime - 90, path.stat().st_mtime - 90))


def campaign(path: Path, folder: Path) -> Iterator[dict[str, Any]]:
    """Every point of every command; a line that stands in ``path`` already is not run again."""
    path.parent.mkdir(exist_ok=True)
    known = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    done = {(line["command"], line["point"]): line for line in known}
    base = built(folder / "base")
    for command in COMMANDS:
        template = prepared(base, command, folder / command)
        names = kill_points(template, command, folder)
        for point, name in enumerate(names, start=1):
            if (command, point) not in done:
                found = killed(template, command, point, name, folder)
                line = {"command": command, "point": point, "of": len(names), "where": name, "problems": found}
                with path.open("a") as file:
                    file.write(json.dumps(line) + "\n")
                done[command, point] = line
            yield done[command, point]


def main(path: Path) -> int:
    with tempfile.TemporaryDirectory(prefix="kills-") as folder:
        lines = list(campaign(path, Path(folder)))
    wrong = [line for line in lines if line["problems"]]
    for line in wrong:
        print(line)
    print(f"{len(lines)} kills, {len(wrong)} left something wrong")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]) if len(sys.argv) > 1 else LINES))
