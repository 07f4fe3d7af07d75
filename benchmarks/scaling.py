"""Time per training step on one and two workers: the pipeline under Ray Train beside plain torchrun with DDP.

All of them take the same batches of the same frames through the same losses. In every round each one starts, takes a
few steps, is timed for many more, and ends before the next one starts: Ray has processes that would have to be stopped
meanwhile, and what they catch up on afterwards is no part of a training.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from harness import Case, Options, Report, at_most, contest, cores, figure, read_options, run_race
from peers.serve import Numbers

PEERS = Path(__file__).resolve().parent / "peers"
START_SECONDS = 240.0
RAY, RAY_ORDERED = "Ray Train, ddp", "Ray Train, ordered"
TORCHRUN, PLAIN = "the same under torchrun", "plain DDP under torchrun"


@dataclass(frozen=True)
class Group:
    """A contestant of several processes, asked through files."""

    name: str
    command: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)

    def measure(self, case: Case) -> Numbers:
        """A whole life of it: the seconds of a step after its first few."""
        with tempfile.TemporaryDirectory(prefix="scaling-", ignore_cleanup_errors=True) as name:
            folder = Path(name)
            with self._started(folder) as process:
                for number, steps in enumerate((case["warm_up"], case["steps"])):
                    numbers = self._ask(folder, number, int(str(steps)), process)
        return numbers

    @contextmanager
    def _started(self, folder: Path) -> Iterator[subprocess.Popen[bytes]]:
        own = {"SCALING_FOLDER": str(folder), "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
        paths = os.pathsep.join((str(PEERS), str(PEERS.parents[1])))
        environment = {**os.environ, **self.environment, **own, "PYTHONPATH": paths}
        command = [part.replace("FOLDER", str(folder)) for part in self.command]
        with (folder / "log").open("w") as log:
            process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        try:
            yield process
        finally:
            self._end(folder, process)

    def _ask(self, folder: Path, number: int, steps: int, process: subprocess.Popen[bytes]) -> Numbers:
        answer = folder / f"{number}.answer"
        _request(folder, number, steps)
        deadline = time.monotonic() + START_SECONDS
        while not answer.exists():
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{self.name} gave no answer: {(folder / 'log').read_text()[-2000:]}")
            time.sleep(0.02)
        return dict(json.loads(answer.read_text()))

    def _end(self, folder: Path, process: subprocess.Popen[bytes]) -> None:
        """Ask the ranks to end; end what does not."""
        if process.poll() is not None:
            return
        family = [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]
        _request(folder, len(list(folder.glob("*.answer"))), 0)
        try:
            process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            for one in family:
                with suppress(psutil.NoSuchProcess):
                    one.kill()
            process.wait()

    def close(self) -> None:
        """Nothing of it lives between two turns."""


def _request(folder: Path, number: int, steps: int) -> None:
    draft = folder / "request"
    draft.write_text(str(steps))
    draft.rename(folder / f"{number}.request")


def ray_group(name: str, reduction: str, workers: int) -> Group:
    return Group(
        name,
        [sys.executable, str(PEERS / "scaling_ray.py"), "FOLDER", reduction, str(workers)],
        {"LCLSC_WORKERS": str(workers)},
    )


def torchrun_group(name: str, kind: str, workers: int) -> Group:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={workers}"]
    rank = {"SCALING_KIND": kind, "SCALING_REDUCTION": "ddp"}
    return Group(name, [*launcher, str(PEERS / "scaling_rank.py")], rank)


def race(report: Report, options: Options, workers: int) -> None:
    case = {"workers": workers, "warm_up": options.pick(8, quick=1), "steps": options.pick(64, quick=1)}
    with contest(
        ray_group(RAY, "ddp", workers),
        ray_group(RAY_ORDERED, "ordered", workers),
        torchrun_group(TORCHRUN, "pipeline", workers),
        torchrun_group(PLAIN, "plain", workers),
    ) as groups:
        result = run_race(groups, case, rounds=options.pick(5, quick=1), warm_ups=0, options=options)
    report.add(result)
    where = f"{workers} worker{'s' * (workers > 1)}"
    report.claim(figure(f"seconds a step under Ray, ddp: {where}", result.median(RAY), "s"))
    report.claim(at_most(f"Ray over the same under torchrun: {where}", result.ratio(RAY, TORCHRUN), 1.02, "x"))
    report.claim(at_most(f"Ray over plain DDP: {where}", result.ratio(RAY, PLAIN), 1.02, "x"))
    report.claim(figure(f"ordered over ddp, both under Ray: {where}", result.ratio(RAY_ORDERED, RAY), "x"))


def main() -> None:
    options = read_options(__doc__)
    report = Report("scaling", options)
    for workers in options.pick((1, 2), quick=(2,)):
        if workers <= cores():
            race(report, options, workers)
    report.claim(figure("the same on GPUs", None, "x"))
    report.finish()


if __name__ == "__main__":
    main()
