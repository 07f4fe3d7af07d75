"""Time per training step on one and two workers: the pipeline under Ray Train beside plain torchrun with DDP.

All of them take the same batches of the same frames through the same losses. They live side by side and take
turns; whoever does not measure is stopped by signal, Ray's own processes included. A turn is long enough that what
Ray catches up on after a stop is little beside it.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from harness import Case, Options, Report, at_most, contest, cores, figure, read_options, run_race
from peers.serve import Numbers

PEERS = Path(__file__).resolve().parent / "peers"
START_SECONDS = 240.0
RAY, RAY_ORDERED = "Ray Train, ddp", "Ray Train, ordered"
TORCHRUN, PLAIN = "the same under torchrun", "plain DDP under torchrun"


@dataclass
class Group:
    """A contestant of several processes: started once, asked through files, stopped between its turns."""

    name: str
    command: Sequence[str]
    environment: dict[str, str] = field(default_factory=dict)
    asked: int = 0

    def __post_init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="scaling-", ignore_cleanup_errors=True)
        self.folder = Path(self._folder.name)
        own = {"SCALING_FOLDER": str(self.folder), "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
        command = [part.replace("FOLDER", str(self.folder)) for part in self.command]
        paths = os.pathsep.join((str(PEERS), str(PEERS.parents[1])))
        environment = os.environ | self.environment | own | {"PYTHONPATH": paths}
        self.log = (self.folder / "log").open("w+")
        self.process = subprocess.Popen(command, env=environment, stdout=self.log, stderr=self.log)

    def measure(self, case: Case) -> Numbers:
        self._signal(signal.SIGCONT)
        numbers = self._ask(int(str(case["steps"])))
        self._signal(signal.SIGSTOP)
        return numbers

    def _ask(self, steps: int) -> Numbers:
        answer = self.folder / f"{self.asked}.answer"
        draft = self.folder / "request"
        draft.write_text(str(steps))
        draft.rename(self.folder / f"{self.asked}.request")
        deadline = time.monotonic() + START_SECONDS
        while not answer.exists():
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.log.seek(0)
                raise RuntimeError(f"{self.name} gave no answer: {self.log.read()[-2000:]}")
            time.sleep(0.02)
        self.asked += 1
        return dict(json.loads(answer.read_text()))

    def close(self) -> None:
        """Ask the ranks to end; end what does not."""
        self._signal(signal.SIGCONT)
        (self.folder / f"{self.asked}.request").write_text("0")
        try:
            self.process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            for process in [*self._family(), psutil.Process(self.process.pid)]:
                with suppress(psutil.NoSuchProcess):
                    process.kill()
        self.log.close()
        self._folder.cleanup()

    def _family(self) -> list[psutil.Process]:
        with suppress(psutil.NoSuchProcess):
            return psutil.Process(self.process.pid).children(recursive=True)
        return []

    def _signal(self, number: signal.Signals) -> None:
        """To all below the launcher, which itself only waits."""
        for process in self._family():
            with suppress(psutil.NoSuchProcess):
                process.send_signal(number)


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
    case = {"workers": workers, "steps": options.pick(16, quick=1)}
    with contest(
        ray_group(RAY, "ddp", workers),
        ray_group(RAY_ORDERED, "ordered", workers),
        torchrun_group(TORCHRUN, "pipeline", workers),
        torchrun_group(PLAIN, "plain", workers),
    ) as groups:
        result = run_race(groups, case, rounds=options.pick(7, quick=1), options=options)
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
