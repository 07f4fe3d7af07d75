"""The fault matrix: 270 points of the steps and 30 of whole flows, each against a run that nothing happened to.

Run    make faults [MINUTES=20] [POINT=17]      goes on where it stopped; a number replays one point
Writes .faults/results.jsonl                    one line a point

No point may change a hash, make a second version, leave something over, or touch the old champion.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import time
import traceback
from collections import Counter
from pathlib import Path

from faults import bases, cases
from faults.points import Point, points
from rich.console import Console
from rich.table import Table

from pipelines import settings

ROOM = Path(__file__).parents[2] / ".faults"


def main() -> int:
    options = _options()
    settings.apply()
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # under nohup, or behind a shell's &, children would ignore them
    signal.signal(signal.SIGINT, signal.default_int_handler)
    ROOM.mkdir(exist_ok=True)
    folder = bases.prepare(ROOM / "bases")
    results = ROOM / f"results-{folder.name}.jsonl"
    if options.point is not None:
        outcome = _one(points()[options.point], folder, results, ROOM / "cases" / "replayed")
        print(json.dumps(outcome, indent=2))
        return int(bool(outcome["problems"]))
    done = _done(results)
    todo = [
        point
        for point in points()
        if point.number not in done and point.step in (options.only or point.step).split(",")
    ]
    failed = _together(todo, folder, results, minutes=options.minutes, jobs=options.jobs)
    return _show(results) or int(failed)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--point", type=int)
    parser.add_argument("--only", default="", help="points of these steps: register,approve")
    return parser.parse_args()


def _together(todo: list[Point], folder: Path, results: Path, *, minutes: float, jobs: int) -> bool:
    """Points shared out among processes, until the time is over. Whether some could not be tried."""
    deadline = time.monotonic() + 60 * minutes
    children = []
    for job in range(jobs):
        child = os.fork()
        if child == 0:
            code = 1
            try:
                code = _share(todo[job::jobs], folder, results, deadline)
            finally:
                os._exit(code)
        children.append(child)
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    return any(codes)


def _share(todo: list[Point], folder: Path, results: Path, deadline: float) -> int:
    """1 if a point could not be tried; it stays to be done, and keeps none of the others from being."""
    code = 0
    for point in todo:
        if time.monotonic() < deadline:
            try:
                _tell(_one(point, folder, results, ROOM / "cases" / str(os.getpid())))
            except Exception:
                traceback.print_exc()
                code = 1
    return code


def _one(point: Point, folder: Path, results: Path, place: Path) -> dict[str, object]:
    with cases.room(place) as room:
        outcome = cases.run(point, folder, room).as_json()
    with results.open("a") as file:
        file.write(json.dumps(outcome) + "\n")
    return outcome


def _tell(outcome: dict[str, object]) -> None:
    point = outcome["point"]
    word = "ok  " if not outcome["problems"] else "FAIL"
    line = (
        f"{word} {point['number']:>3} {point['step']:<9} {point['kind']:<17} {outcome['ended']:<9} {outcome['place']}"  # type: ignore[index]
    )
    print(f"{line[:130]}  {outcome['seconds']} s", flush=True)
    for problem in outcome["problems"]:  # type: ignore[attr-defined]
        print(f"       {problem}", flush=True)


def _done(results: Path) -> dict[int, dict[str, object]]:
    """The newest line of each point."""
    lines = results.read_text().splitlines() if results.exists() else []
    return {found["point"]["number"]: found for found in map(json.loads, lines)}


def _show(results: Path) -> int:
    done = _done(results)
    every = points()
    table = Table(title=f"{len(done)} of {len(every)} points", title_justify="left")
    for column in ("step", "points", "done", "struck", "wrong"):
        table.add_column(column, justify="left" if column == "step" else "right")
    for step, count in Counter(point.step for point in every).items():
        own = [found for found in done.values() if found["point"]["step"] == step]  # type: ignore[index]
        struck, wrong = (sum(bool(found[name]) for found in own) for name in ("struck", "problems"))
        table.add_row(step, *(str(cell) for cell in (count, len(own), struck, wrong)))
    Console().print(table)
    wrong = sorted(number for number, found in done.items() if found["problems"])
    for number in wrong:
        print(f"make faults POINT={number}: {done[number]['problems'][0]}")  # type: ignore[index]
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
