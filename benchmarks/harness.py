"""The frame of every benchmark: contestants side by side in one run, medians, ratios and claims.

    options = read_options(__doc__)
    report = Report("loss", options)
    with contest(InProcess("ours", measure), Child("lightly", "peers/lightly_loss.py", env="torchvision")) as both:
        race = run_race(both, {"size": 4096}, rounds=options.pick(7, quick=2))
    report.add(race)
    report.claim(at_least("times faster than lightly at 4096", race.ratio("lightly", "ours"), 3, "x"))
    report.finish()

Every contestant answers a dict of numbers for a case, usually with ``seconds``. Contestants take turns, and a
ratio is the median of the ratios of single rounds: what slows the machine for a while slows both sides.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Protocol, TypeVar

from rich.console import Console
from rich.progress import track
from rich.table import Table

from peers.serve import Numbers, versions

ROOT = Path(__file__).resolve().parent.parent
PEERS = ROOT / ".peers"
RESULTS = ROOT / "benchmarks" / "results"
Case = Mapping[str, object]
T = TypeVar("T")


# ---- what a person asks for


@dataclass(frozen=True, kw_only=True)
class Options:
    """``quick`` is a smoke run with its own results folder; after ``deadline`` (monotonic) no new round starts."""

    quick: bool
    deadline: float | None = None

    def pick(self, thorough: T, *, quick: T) -> T:
        return quick if self.quick else thorough

    @property
    def time_is_up(self) -> bool:
        return self.deadline is not None and time.monotonic() >= self.deadline


def read_options(description: str | None, arguments: Sequence[str] | None = None) -> Options:
    """--quick and --minutes from the command line."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a smoke run: small cases, few rounds, own results folder")
    parser.add_argument("--minutes", type=float, help="start no new round after so many minutes")
    given = parser.parse_args(arguments)
    deadline = None if given.minutes is None else time.monotonic() + 60 * given.minutes
    return Options(quick=given.quick, deadline=deadline)


# ---- who takes part


class NotMeasuredError(Exception):
    """A peer that cannot take part, and why."""


class Contestant(Protocol):
    name: str

    def measure(self, case: Case) -> Numbers: ...

    def close(self) -> None: ...


@dataclass
class InProcess:
    """A contestant of this interpreter: ``function(**case)`` answers its numbers."""

    name: str
    function: Callable[..., Numbers]

    def measure(self, case: Case) -> Numbers:
        return self.function(**case)

    def close(self) -> None:
        pass


@dataclass
class Child:
    """A contestant of its own process: ``benchmarks/<script>`` run by the interpreter of ``.peers/<env>``.

    Without ``env`` it is ours, run by this interpreter: then a failure is an error and never "not measured".
    ``arguments`` go with every case.
    """

    name: str
    script: str
    env: str | None = None
    arguments: Case = field(default_factory=dict)
    _process: "subprocess.Popen[str] | None" = None

    def measure(self, case: Case) -> Numbers:
        try:
            return self._ask(case)
        except NotMeasuredError as reason:
            self.close()
            if self.env is None:
                raise RuntimeError(f"{self.name}: {reason}") from reason
            raise

    def _ask(self, case: Case) -> Numbers:
        if self._process is None:
            self._process = self._start()
        pipes = self._process
        assert pipes.stdin is not None
        assert pipes.stdout is not None
        try:
            pipes.stdin.write(json.dumps({**case, **self.arguments}) + "\n")
            pipes.stdin.flush()
            line = pipes.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise NotMeasuredError(f"its process ended with code {pipes.wait()}")
        answer = json.loads(line)
        if "error" in answer:
            raise NotMeasuredError(answer["error"])
        return dict(answer["numbers"])

    def _start(self) -> "subprocess.Popen[str]":
        command = [str(interpreter(self.env)), str(ROOT / "benchmarks" / self.script)]
        environment = {**os.environ, "PYTHONPATH": str(ROOT / "benchmarks" / "peers")}
        return subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, text=True, cwd=ROOT
        )

    def close(self) -> None:
        if self._process is not None:
            assert self._process.stdin is not None
            self._process.stdin.close()
            self._process.wait()
            self._process = None


def interpreter(env: str | None) -> Path:
    """The Python of an environment of peers, or this one."""
    if env is None:
        return Path(sys.executable)
    if not (PEERS / env / ".installed").exists():
        log = PEERS / f"{env}.log"
        lines = log.read_text().strip().splitlines() if log.exists() else []
        raise NotMeasuredError(f"environment {env} is not installed: {lines[-1] if lines else 'run make bench-deps'}")
    return PEERS / env / "bin" / "python"


@contextmanager
def contest(*contestants: Contestant) -> Iterator[Sequence[Contestant]]:
    """The contestants; their processes end with the block."""
    with ExitStack() as stack:
        for contestant in contestants:
            stack.callback(contestant.close)
        yield contestants


# ---- the race


@dataclass(frozen=True, kw_only=True)
class Race:
    """All rounds of one case; a contestant in ``not_measured`` has no samples."""

    case: Case
    samples: dict[str, list[Numbers]]
    not_measured: dict[str, str]

    def median(self, name: str, key: str = "seconds") -> float | None:
        rounds = self.samples.get(name)
        return statistics.median(numbers[key] for numbers in rounds) if rounds else None

    def ratio(self, above: str, below: str, key: str = "seconds", *, per: str | None = None) -> float | None:
        """Median over rounds of above / below; each first divided by its own yardstick ``per``, where given."""
        rounds = list(zip(self.samples.get(above, []), self.samples.get(below, []), strict=False))
        quotients = [_relative(a, key, per) / _relative(b, key, per) for a, b in rounds]
        return statistics.median(quotients) if quotients else None

    def record(self) -> dict[str, object]:
        """As written to JSON: the median, the extremes and the count of every number."""
        return {
            "case": dict(self.case),
            "contestants": {name: _summary(rounds) for name, rounds in self.samples.items() if rounds},
            "not_measured": self.not_measured,
        }


def _relative(numbers: Numbers, key: str, per: str | None) -> float:
    return numbers[key] / (1.0 if per is None else numbers[per])


def _summary(rounds: Sequence[Numbers]) -> dict[str, dict[str, float]]:
    columns = {key: [numbers[key] for numbers in rounds] for key in rounds[0]}
    return {
        key: {"median": statistics.median(column), "min": min(column), "max": max(column), "rounds": len(column)}
        for key, column in columns.items()
    }


def run_race(
    contestants: Sequence[Contestant], case: Case, *, rounds: int, warm_ups: int = 1, options: Options | None = None
) -> Race:
    """Every contestant once a round, each round begun by another one; warm-up rounds do not count."""
    race = Race(case=case, samples={contestant.name: [] for contestant in contestants}, not_measured={})
    title = ", ".join(f"{key} {value}" for key, value in case.items()) or "race"
    for turn in track(range(-warm_ups, rounds), title, console=Console(stderr=True), transient=True):
        if options is not None and options.time_is_up and turn > 0:
            break
        start = turn % len(contestants)
        for contestant in (*contestants[start:], *contestants[:start]):
            _take_turn(race, contestant, counts=turn >= 0)
    return race


def _take_turn(race: Race, contestant: Contestant, *, counts: bool) -> None:
    name = contestant.name
    if name in race.not_measured:
        return
    try:
        numbers = contestant.measure(race.case)
    except NotMeasuredError as reason:
        race.not_measured[name] = str(reason)
        race.samples[name].clear()
        return
    if counts:
        race.samples[name].append(numbers)


# ---- what is said about it


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A figure beside its goal; ``holds`` is None where the figure could not be had."""

    name: str
    value: float | None
    unit: str
    goal: str
    holds: bool | None


def at_least(name: str, value: float | None, goal: float, unit: str) -> Claim:
    return Claim(name=name, value=value, unit=unit, goal=f">= {goal:g}", holds=None if value is None else value >= goal)


def at_most(name: str, value: float | None, goal: float, unit: str) -> Claim:
    return Claim(name=name, value=value, unit=unit, goal=f"<= {goal:g}", holds=None if value is None else value <= goal)


def figure(name: str, value: float | None, unit: str) -> Claim:
    """A figure without a goal, reported all the same."""
    return Claim(name=name, value=value, unit=unit, goal="reported", holds=None)


@dataclass
class Report:
    """Races and claims of one topic; ``finish`` prints them and writes ``results/<topic>.json``."""

    topic: str
    options: Options
    folder: Path = RESULTS
    runs: list[Mapping[str, object]] = field(default_factory=list)
    claims: list[Claim] = field(default_factory=list)

    def add(self, run: Race | Mapping[str, object]) -> None:
        self.runs.append(run.record() if isinstance(run, Race) else run)

    def claim(self, claim: Claim) -> None:
        self.claims.append(claim)

    @property
    def path(self) -> Path:
        return (self.folder / "quick" if self.options.quick else self.folder) / f"{self.topic}.json"

    def finish(self) -> None:
        self._print()
        content = {
            "topic": self.topic,
            "quick": self.options.quick,
            "machine": machine(),
            "runs": self.runs,
            "claims": [asdict(claim) for claim in self.claims],
        }
        self.path.parent.mkdir(parents=True, exist_ok=True)
        draft = self.path.with_suffix(".tmp")
        draft.write_text(json.dumps(content, indent=2, sort_keys=True, allow_nan=False) + "\n")
        draft.replace(self.path)

    def _print(self) -> None:
        table = Table("claim", "measured", "goal", "holds", title=f"{self.topic}: {cores()} cores, {cpu_model()}")
        for claim in self.claims:
            value = "not measured" if claim.value is None else f"{claim.value:.4g} {claim.unit}"
            table.add_row(claim.name, value, claim.goal, {True: "yes", False: "NO", None: "-"}[claim.holds])
        console = Console()
        console.print(table)
        for name, reason in sorted({pair for run in self.runs for pair in _missing(run)}):
            console.print(f"not measured: {name}: {reason}", markup=False)


def _missing(run: Mapping[str, object]) -> list[tuple[str, str]]:
    missing = run.get("not_measured", {})
    return list(missing.items()) if isinstance(missing, Mapping) else []


# ---- where it was measured


def machine() -> dict[str, object]:
    """Processor, cores that this process may use, and versions."""
    return {
        "cpu": cpu_model(),
        "cores": cores(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "system": f"{platform.system()} {platform.machine()}",
        "versions": {"python": platform.python_version(), **versions("torch", "numpy", "monai", "ray")},
    }


def cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cpu_model() -> str:
    """As the system names it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor() or "unknown"
