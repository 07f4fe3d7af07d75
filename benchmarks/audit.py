"""Audit: is every change found and the changed thing named, is it quiet on what is sound, and how fast does it hash?

Four parts, each on its own by ``--part``:

    mutations   2 000 single mutations (tests/faults/mutations.py), each audited in this process
    clean       2 000 audits of sound material in this process: all targets, samples, a moved copy, some ``--deep``
    commands    200 whole command lines on sound material
    hashing     the objects of a commit against ``openssl dgst -sha256`` on the same files; run it on a quiet machine

One micro workspace, really built, is kept in ``.audit/``; a mutated copy shares its bytes by hard links and is
mended after each audit. Outcomes are kept line by line, so that a run goes on where the last one stopped; a change
of the audit or of the mutations makes them void.
"""

import argparse
import contextlib
import hashlib
import json
import math
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import grimp
import numpy as np

from harness import ROOT, InProcess, Options, Report, at_least, at_most, contest, figure, run_race
from orchestration import LCLSC, taken_in
from peers.serve import Numbers

sys.path.insert(0, str(ROOT / "tests"))
from faults import mutations

from pipelines import settings
from pipelines.evidence import audit, object_checks
from pipelines.evidence.commit import Commit, StoredObject
from pipelines.evidence.object_checks import Sample
from pipelines.object_stores import place
from pipelines.workspace import Workspace

STATE = ROOT / ".audit"
WANTED = {"mutations": 2000, "clean": 2000, "commands": 200}
QUICK = {"mutations": 20, "clean": 10, "commands": 2}
DEEP_EVERY = 100
SEED = 20_000
MIB = 1 << 20
Outcome = dict[str, Any]


def main() -> None:
    given = _arguments()
    settings.apply()
    options = Options(quick=given.quick, deadline=time.monotonic() + 60 * given.minutes)
    wanted = QUICK if given.quick else WANTED
    sound = built()
    report = Report("audit", options)
    for part, run in (("mutations", mutated), ("clean", clean), ("commands", commanded)):
        if given.part in (part, "all"):
            with run(sound) as outcome_of:
                list(results(part, wanted[part], outcome_of, options, redo=given.redo))
    if given.part in ("hashing", "all"):
        _keep_hashing(options)
    for part, claim in (("mutations", _claim_mutations), ("clean", _claim_quiet), ("commands", _claim_quiet)):
        claim(report, part, _known(part), wanted[part])
    _claim_hashing(report)
    report.finish()


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=["all", *WANTED, "hashing"], default="all")
    parser.add_argument("--minutes", type=float, default=math.inf, help="start nothing new after so many minutes")
    parser.add_argument("--redo", type=int, help="run this one seed of the part again, and say what was found")
    parser.add_argument("--quick", action="store_true", help="a smoke run: a few of each, own results folder")
    return parser.parse_args()


def built() -> Path:
    """A workspace after its first retrain, made once."""
    root = STATE / "workspace"
    if not root.exists():
        STATE.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir=STATE) as folder:
            fresh = taken_in(Path(folder))
            subprocess.run([LCLSC, "retrain", "--workspace", fresh], check=True)
            fresh.rename(root)
    return root


# ---- the campaign


def results(
    part: str, wanted: int, outcome_of: Callable[[int], Outcome], options: Options, *, redo: int | None
) -> Iterator[Outcome]:
    """Outcomes of seeds that have none yet, kept as they come."""
    known = {outcome["seed"] for outcome in _known(part)}
    seeds = range(wanted) if redo is None else [redo]
    for seed in seeds:
        if options.time_is_up:
            break
        if seed in known and redo is None:
            continue
        started = time.perf_counter()
        outcome = {"part": part, "seed": seed, **outcome_of(seed), "seconds": time.perf_counter() - started}
        if redo is None:
            with _file().open("a") as file:
                file.write(json.dumps(outcome) + "\n")
        if outcome["wrong"] or seed % 50 == 0 or redo is not None:
            print(f"{part} {seed + 1}/{wanted} {outcome['wrong'] or 'as it should be'}", flush=True)
        yield outcome


@cache
def _file() -> Path:
    """Once: what runs is what was there when it began."""
    graph = grimp.build_graph("pipelines", cache_dir=None)
    names = {audit.__name__} | graph.find_upstream_modules(audit.__name__)
    own = sorted(name for name in names if name.startswith("pipelines.evidence."))
    sources = [*(ROOT / f"{name.replace('.', '/')}.py" for name in own), Path(mutations.__file__)]
    digest = hashlib.sha256(b"\0".join(path.read_bytes() for path in sources)).hexdigest()
    return STATE / f"outcomes-{digest[:16]}.jsonl"


def _known(part: str) -> list[Outcome]:
    lines = _file().read_text().splitlines() if _file().exists() else []
    return [outcome for outcome in map(json.loads, lines) if outcome["part"] == part]


@contextlib.contextmanager
def mutated(sound: Path) -> Iterator[Callable[[int], Outcome]]:
    with tempfile.TemporaryDirectory(dir=STATE) as folder:
        root = mutations.copy(sound, Path(folder) / "mutated")

        def outcome_of(seed: int) -> Outcome:
            mutation = mutations.mutate(root, seed)
            try:
                report = audit.run(Workspace(root), [], sample=Sample(), record=False)
            except Exception as error:  # an audit that ends with a traceback has found nothing
                return {"kind": mutation.kind, "wrong": f"{mutation}: {type(error).__name__}: {error}"}
            finally:
                mutations.restore(sound, root)
            return {"kind": mutation.kind, "wrong": _missed(mutation, report)}

        yield outcome_of


def _missed(mutation: mutations.Mutation, report: audit.AuditReport) -> str:
    """Empty where the audit failed and a failed check names what was changed."""
    failed = [check for check in report.checks if check.verdict == "fail"]
    if not failed:
        return f"not found: {mutation}"
    if any(mutation.object in check.object or mutation.object in check.found for check in failed):
        return ""
    return f"not named: {mutation} in {[(check.name, check.object, check.found) for check in failed][:5]}"


@contextlib.contextmanager
def clean(sound: Path) -> Iterator[Callable[[int], Outcome]]:
    """Everything that may be asked of a sound workspace, here and in a copy that was moved."""
    with tempfile.TemporaryDirectory(dir=STATE) as folder:
        moved = mutations.copy(sound, Path(folder) / "moved")

        def outcome_of(seed: int) -> Outcome:
            chance = random.Random(seed)
            root, target = chance.choice([sound, moved]), chance.choice(_targets(sound))
            size = chance.choice([None, None, chance.randint(1, 60)])
            report = audit.run(
                Workspace(root),
                [name for name in target if name != "--all"],
                everything="--all" in target,
                deep=seed % DEEP_EVERY == 0,
                sample=Sample(size=size, seed=seed),
                record=False,
            )
            return {"kind": " ".join(target) or "default", "wrong": _alarm(report.as_json())}

        yield outcome_of


@contextlib.contextmanager
def commanded(sound: Path) -> Iterator[Callable[[int], Outcome]]:
    def outcome_of(seed: int) -> Outcome:
        target = _targets(sound)[seed % len(_targets(sound))]
        command = [LCLSC, "audit", *target, "--json", "--workspace", sound]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        wrong = f"exit {done.returncode}: {done.stderr[-300:]}" if done.returncode else _alarm(json.loads(done.stdout))
        return {"kind": " ".join(target) or "default", "wrong": wrong}

    yield outcome_of


def _targets(sound: Path) -> list[list[str]]:
    data_version = audit.head(Workspace(sound)).commit.data_version
    return [[], ["@champion"], ["1"], ["HEAD"], ["HEAD~2"], [data_version], ["--all"], ["1", "HEAD"]]


def _alarm(report: dict[str, Any]) -> str:
    return "" if report["verdict"] == "pass" else str([c for c in report["checks"] if c["verdict"] != "pass"][:3])


def _claim_mutations(report: Report, part: str, outcomes: list[Outcome], wanted: int) -> None:
    missed = [outcome for outcome in outcomes if outcome["wrong"]]
    kinds = Counter(outcome["kind"] for outcome in outcomes)
    for kind in sorted(kinds):
        wrong = [outcome["wrong"] for outcome in missed if outcome["kind"] == kind]
        report.add({"part": part, "kind": kind, "mutations": kinds[kind], "missed": wrong})
    report.claim(at_least("single mutations audited", len(outcomes), wanted, f"of {len(kinds)} kinds"))
    not_found = sum(not outcome["wrong"].startswith("not named") for outcome in missed)
    report.claim(at_most("mutations not found", not_found if outcomes else None, 0, f"of {len(outcomes)}"))
    report.claim(at_most("found, but not named", len(missed) - not_found if outcomes else None, 0, ""))
    report.claim(figure("a mutation, its audit and its mending", _median(outcomes), "s, median"))


def _claim_quiet(report: Report, part: str, outcomes: list[Outcome], wanted: int) -> None:
    alarms = [outcome["wrong"] for outcome in outcomes if outcome["wrong"]]
    report.add({"part": part, "audits": len(outcomes), "alarms": alarms})
    name = {"clean": "audits of sound material, in process", "commands": "whole command lines on sound material"}[part]
    report.claim(at_least(name, len(outcomes), wanted, ""))
    report.claim(at_most(f"false alarms, {part}", len(alarms) if outcomes else None, 0, f"of {len(outcomes)}"))
    report.claim(figure(f"one audit, {part}", _median(outcomes), "s, median"))


def _median(outcomes: list[Outcome]) -> float | None:
    return statistics.median(outcome["seconds"] for outcome in outcomes) if outcomes else None


# ---- hashing


def _keep_hashing(options: Options) -> None:
    """Races of the audit's own check of objects beside openssl, kept for the report."""
    races = []
    for name, count, mib in (("one file", 1, 512), ("many files", 512, 1)):
        with tempfile.TemporaryDirectory(dir=STATE) as folder:
            commit = drawn_commit(Path(folder), count, options.pick(mib, quick=1) * MIB)
            files = [path for path in Path(folder).rglob("*") if path.is_file() and "md5" in path.parts]
            ours = InProcess("audit", lambda files, mib, own=commit: _check(own))
            openssl = InProcess("openssl", lambda files, mib, paths=files: _openssl(paths))
            with contest(ours, openssl) as both:
                case = {"files": name, "mib": sum(path.stat().st_size for path in files) // MIB}
                races.append(run_race(both, case, rounds=options.pick(7, quick=2), options=options))
    content = [{**race.record(), "ratio": race.ratio("openssl", "audit")} for race in races]
    (STATE / "hashing.json").write_text(json.dumps(content))


def drawn_commit(root: Path, count: int, size: int) -> Commit:
    """A commit of random objects, each in the cache and in a remote, known by SHA-256 as videos and shards are."""
    (root / ".dvc").mkdir()
    (root / ".dvc" / "config").write_text("[core]\n    remote = storage\n['remote \"storage\"']\n    url = ../remote\n")
    objects = []
    for number in range(count):
        content = np.random.default_rng(SEED + number).bytes(size)
        md5 = hashlib.md5(content, usedforsecurity=False).hexdigest()
        for store in (root / ".dvc" / "cache", root / "remote"):
            path = store / place(md5)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        sha256 = hashlib.sha256(content).hexdigest()
        objects.append(StoredObject(path=f"videos/{number}.mp4", md5=md5, remote="storage", sha256=sha256))
    commit = Commit(Workspace(root), "0" * 40)
    vars(commit)["objects"] = objects
    return commit


def _check(commit: Commit) -> Numbers:
    started = time.perf_counter()
    checks = list(object_checks.check_objects(commit, sample=Sample(), gone=(), advance=lambda _: None))
    seconds = time.perf_counter() - started
    assert [check.verdict for check in checks] == ["pass", "pass"], checks
    return {"seconds": seconds}


def _openssl(paths: list[Path]) -> Numbers:
    started = time.perf_counter()
    subprocess.run(["openssl", "dgst", "-sha256", *map(str, paths)], check=True, stdout=subprocess.DEVNULL)
    return {"seconds": time.perf_counter() - started}


def _claim_hashing(report: Report) -> None:
    path = STATE / "hashing.json"
    for race in json.loads(path.read_text()) if path.exists() else []:
        report.add(race)
        name = f"hashing {race['case']['mib']} MiB in {race['case']['files']}, beside openssl dgst -sha256"
        report.claim(at_least(name, race["ratio"], 0.8, "of its speed"))


if __name__ == "__main__":
    main()
