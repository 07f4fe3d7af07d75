"""Races of promote, approve, rollback and retrain: real processes, all at once on one workspace, drawn from a seed.

    python -m faults.promotion_races [SEEDS [JSONL]]     by default 200; goes on where it stopped

Three to five people each give one command at a drawn moment; in every third race one of them is ended by SIGKILL.
Each must end well or be told why not. Then the history must be one line, equal to the ledger, the registry, and what
a trigger inside the database saw.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from faults import promotions, witness
from faults.children import Child, in_child

from pipelines import alias_history, ledger, locks, promotion, registry
from pipelines.errors import LclscError
from pipelines.workspace import Workspace

SEEDS = 200
LINES = Path(__file__).parents[2] / ".faults" / "promotion_races.jsonl"
WITHIN_SECONDS = 0.6  # of each other; a decision takes a tenth of a second, a registration a whole one
EXPECTED = {
    "approve": {"champion_moved", "not_challenger", "not_judged", "evidence_changed", "no_such_version"},
    "rollback": {"no_former_champion"},
    "promote": {"champion_moved", "workspace_busy"},
    "retrain": {"champion_moved", "workspace_busy"},
}
"""What a person may be told, and in their case is right."""

Command = tuple[str, str]


def prepared(root: Path, database: Path | None = None) -> Workspace:
    """Version 1 was champion, 2 is, 3 is its challenger; 4 is registered, 5 trained."""
    workspace = promotions.build(root, versions=4, database=database, witness=witness.install)
    promotions.judge(workspace, "2")
    promotion.approve(workspace, "2", by="Ada", reason="better")
    promotions.judge(workspace, "3")
    promotions.package(workspace, 4)
    promotion.keep(workspace, "Judge version 3")
    return workspace


def drawn(seed: int) -> list[tuple[Command, float, float | None]]:
    """Who does what, after how many seconds, and when they are ended."""
    chance = random.Random(seed)
    commands: list[Command] = [
        ("approve", "3"),
        chance.choice([("approve", "3"), ("approve", "4"), ("approve", "@challenger")]),
        chance.choice([("promote", "4"), ("retrain", "5"), ("promote", "3")]),
        ("rollback", ""),
        chance.choice([("retrain", "5"), ("promote", "4"), ("rollback", "")]),
    ]
    chosen = chance.sample(commands, chance.randint(3, 5))
    victim = chance.randrange(len(chosen)) if seed % 3 == 0 else None
    starts = [chance.uniform(0, WITHIN_SECONDS) for _ in chosen]
    return [
        (command, start, chance.uniform(0.02, 0.5) if number == victim else None)
        for number, (command, start) in enumerate(zip(chosen, starts, strict=True))
    ]


def race(template: Workspace, seed: int, root: Path) -> dict[str, Any]:
    """What each was told, and what is wrong afterwards."""
    workspace = promotions.copy(template, root)
    people = drawn(seed)
    children = [Child(_person, workspace, command, start, end) for command, start, end in people]
    ends = [child.end() for child in children]
    found = [
        f"{command}: {told}"
        for (command, _, end), told in zip(people, ends, strict=True)
        if not _is_right(command, end, told)
    ]
    found += in_child(_look, workspace)["problems"]
    promotions.remove(workspace)
    shown = [[*command, told.get("end", "killed")] for (command, _, _), told in zip(people, ends, strict=True)]
    return {"seed": seed, "people": shown, "problems": found}


def _person(workspace: Workspace, command: Command, start: float, end: float | None) -> dict[str, Any]:
    time.sleep(start)
    if end is not None:
        threading.Timer(end, os.kill, (os.getpid(), signal.SIGKILL)).start()
    try:
        _give(workspace, *command)
    except LclscError as error:
        told = {"end": error.code, "remedy": error.remedy}
    else:
        told = {"end": "done"}
    if end is not None:
        time.sleep(end)
    return told


def _give(workspace: Workspace, name: str, version: str) -> None:
    if name == "approve":
        promotion.approve(workspace, version, by="Ada", reason="better")
    elif name == "rollback":
        promotion.rollback(workspace, reason="worse after all")
    elif name == "promote":
        with locks.one_writer(workspace):
            promotions.judge(workspace, version)
            promotion.keep(workspace, f"Judge version {version}")
    else:
        with locks.one_writer(workspace):
            made = promotions.register(workspace, int(version) - 1, complete=False)
            promotions.judge(workspace, made.version, actor="retrain")
            promotion.keep(workspace, f"Register version {made.version}")
            registry.connect(workspace).complete(made.version)


def _is_right(command: Command, end: float | None, told: dict[str, Any]) -> bool:
    if "signal" in told:
        return end is not None and told["signal"] == signal.SIGKILL
    return told["end"] == "done" or (told["end"] in EXPECTED[command[0]] and bool(told["remedy"]))


def _look(workspace: Workspace) -> dict[str, Any]:
    """After ``doctor --repair``, which has something to do only where somebody was ended."""
    promotions.repair(workspace)
    found = witness.problems(workspace)
    entries = ledger.read(workspace.ledger)
    asked = {entry.seq for entry in entries if entry.event in alias_history.DECISIONS}
    moves = [entry.data for entry in entries if entry.event in alias_history.MOVES]
    if any(data["alias"] == "champion" and data["decision"] not in asked for data in moves):
        found.append("the champion moved and nobody had decided it")
    return {"problems": found}


def campaign(path: Path, seeds: int, folder: Path) -> Iterator[dict[str, Any]]:
    """A line a seed; one that stands in ``path`` already is not run again."""
    path.parent.mkdir(exist_ok=True)
    known = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    done = {line["seed"]: line for line in known}
    template = prepared(folder / "template")
    for seed in range(seeds):
        if seed not in done:
            done[seed] = race(template, seed, folder / f"race-{seed}")
            with path.open("a") as file:
                file.write(json.dumps(done[seed]) + "\n")
        yield done[seed]


def main(seeds: int, path: Path) -> int:
    with tempfile.TemporaryDirectory(prefix="races-") as folder:
        lines = list(campaign(path, seeds, Path(folder)))
    wrong = [line for line in lines if line["problems"]]
    for line in wrong:
        print(line)
    killed = sum("killed" in person for line in lines for person in line["people"])
    print(f"{len(lines)} races, {killed} people killed, {len(wrong)} races left something wrong")
    return 1 if wrong else 0


if __name__ == "__main__":
    given = dict(enumerate(sys.argv))
    sys.exit(main(int(given.get(1, SEEDS)), Path(given.get(2, LINES))))
