"""Reproduce: does a registered version come out of its raw videos again, byte by byte, however often one asks?

A micro workspace (15 one-second clips, 2 epochs), really built, kept in ``.audit/`` beside the audit campaign's. Each
run is the whole command ``lclsc reproduce``; ``--workspace DIR`` asks one of your own, such as ``demo``, instead.

    plain      nothing happens
    killed     SIGKILL at a random moment, to the command and all it started; then the command again
    upgraded   by a later version of this project: a copy whose stages are others, and fail when they are asked
    frames     ``--from train``: from the stored frames

Outcomes are kept line by line, so that a run goes on where the last one stopped.
"""

import argparse
import json
import math
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil

from audit import STATE, built
from harness import ROOT, Options, Report, at_least, figure

PLAN = ("plain", "killed", "killed", "plain", "killed", "upgraded", "killed", "plain", "killed", "plain", "frames")
STAGES = ("extract", "train", "evaluate")
OTHER_CODE = """

def run(*arguments, **options):
    raise RuntimeError("this is the code of another version")
"""
Outcome = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workspace", type=Path, help="one of your own; by default the micro workspace in .audit/")
    parser.add_argument("--version", default="1")
    parser.add_argument("--minutes", type=float, default=math.inf, help="start nothing new after so many minutes")
    parser.add_argument("--quick", action="store_true", help="the first one only, own results folder")
    given = parser.parse_args()
    options = Options(quick=given.quick, deadline=time.monotonic() + 60 * given.minutes)
    workspace = given.workspace.resolve() if given.workspace else built()
    state = STATE / f"reproductions-{_name(workspace, given.version)}.jsonl"
    plan = PLAN[: options.pick(len(PLAN), quick=1)]
    done = _known(state)
    for number, kind in list(enumerate(plan))[len(done) :]:
        if options.time_is_up:
            break
        outcome = {"number": number, "kind": kind, **run(kind, workspace, given.version, _seconds(done), number)}
        with state.open("a") as file:
            file.write(json.dumps(outcome) + "\n")
        done.append(outcome)
        print(f"{number + 1}/{len(plan)} {kind}: {outcome['verdict']} in {outcome['seconds']:.0f} s", flush=True)
    finish(done[: len(plan)], len(plan), options)


def _name(workspace: Path, version: str) -> str:
    return f"{workspace.name}-{version}"


def _known(state: Path) -> list[Outcome]:
    return [json.loads(line) for line in state.read_text().splitlines()] if state.exists() else []


def _seconds(done: list[Outcome]) -> float:
    """How long one takes here at the least, as far as it is known: a kill must come before the end."""
    return min(outcome["seconds"] for outcome in done) if done else 60.0


# ---- one reproduction


def run(kind: str, workspace: Path, version: str, usual_seconds: float, seed: int) -> Outcome:
    command = ["reproduce", version, "--json", "--workspace", str(workspace)]
    command += ["--from", "train"] if kind == "frames" else []
    killed_after = None
    with tempfile.TemporaryDirectory(dir=STATE) as folder:
        environment = dict(os.environ)
        if kind == "upgraded":
            environment["PYTHONPATH"] = str(upgraded(Path(folder)))
            _require_stale(workspace, environment)
        if kind == "killed":
            killed_after = random.Random(seed).uniform(0.05, 0.95) * usual_seconds
            while not _kill(command, killed_after, environment):
                killed_after /= 2  # it had ended before: the machine is less busy than it was
        started = time.perf_counter()
        done = subprocess.run(_cli(command), env=environment, capture_output=True, text=True, check=False)
        seconds = time.perf_counter() - started
    report = json.loads(done.stdout)
    kept = {name: report.get(name) for name in ("verdict", "steps", "frames_decoded", "reused", "compared", "error")}
    return {**kept, "seconds": seconds, "killed_after": killed_after}


def _cli(command: list[str]) -> list[str]:
    """By module and not by the installed script: PYTHONPATH alone decides whose code it is."""
    return [sys.executable, "-P", "-c", "from flows.cli import main; main()", *command]


def _kill(command: list[str], seconds: float, environment: Mapping[str, str]) -> bool:
    """Start it, and after a while end it and all that it started at once, as the loss of power would.

    False where it had ended by itself.
    """
    process = psutil.Popen(
        _cli(command), env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    time.sleep(seconds)
    if process.poll() is not None:
        return False
    family = [*process.children(recursive=True), process]
    for member in family:
        try:
            member.send_signal(signal.SIGKILL)
        except psutil.NoSuchProcess:
            continue
    psutil.wait_procs(family, timeout=30)
    return True


def upgraded(folder: Path) -> Path:
    """The project's packages with other code in every stage."""
    for name in ("pipelines", "lclsc", "flows"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("dvc.yaml", "params.yaml", "prefect.yaml", "requirements.lock"):
        shutil.copyfile(ROOT / name, folder / name)
    for stage in STAGES:
        with (folder / "pipelines" / f"{stage}.py").open("a") as file:
            file.write(OTHER_CODE)
    return folder


def _require_stale(workspace: Path, environment: Mapping[str, str]) -> None:
    """The changed code is the one that runs, and would not pass for the version's own."""
    command = _cli(["retrain", "--dry-run", "--json", "--workspace", str(workspace)])
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    answer = json.loads(done.stdout)
    if "stale" not in answer:  # made under parameters that this version no longer reads
        assert answer["error"]["code"] == "params_invalid", answer
        return
    assert answer["stale"].keys() == set(STAGES), answer


# ---- what is said about it


def finish(done: list[Outcome], wanted: int, options: Options) -> None:
    report = Report("reproduce", options)
    for outcome in done:
        report.add(outcome)
    whole = [outcome for outcome in done if outcome["kind"] != "frames"]
    killed = sum(outcome["killed_after"] is not None for outcome in done)
    report.claim(figure("killed while they were at work", killed, f"of {len(done)}"))
    for kind in ("plain", "killed", "upgraded", "frames"):
        own = [outcome for outcome in done if outcome["kind"] == kind]
        identical = sum(outcome["verdict"] == "identical" and not outcome["reused"] for outcome in own)
        expected = PLAN[:wanted].count(kind)
        report.claim(at_least(f"identical, {kind}", identical if own else None, expected, f"of {len(own)} run"))
    identical = sum(outcome["verdict"] == "identical" for outcome in whole)
    report.claim(
        at_least("identical from raw video", identical if whole else None, min(10, wanted), f"of {len(whole)}")
    )
    seconds = statistics.median(outcome["seconds"] for outcome in whole) if whole else None
    report.claim(figure("one reproduction", seconds, "s, median"))
    report.finish()


if __name__ == "__main__":
    main()
