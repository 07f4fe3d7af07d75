"""What a workspace costs a video, a frame and a step, and what that says of 10 000 hours of video.

Phantom clips of 576 px go through intake and a first retrain, in three amounts. Each stage's time is taken as a sum:
what it costs at all, a video, a frame, a step of training (none below zero). A fourth amount, larger than these,
was not used for it and says how far the sum is off.

    seconds of "around": a retrain less its three stages: DVC, Prefect, the push, registration, the gate, the page
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import yaml
from rich.console import Console
from rich.progress import track
from rich.table import Table
from scipy.optimize import nnls

from harness import ROOT, Options, Report, cores, figure, read_options
from pipelines import sampling
from pipelines.synth import dataset

LCLSC = Path(sys.executable).with_name("lclsc")
KEY = ROOT / "pipelines" / "synth" / "published.key"
MATERIAL = ROOT / ".peers" / "material" / "cost"
SIZE_PX, FPS, EPOCHS, BATCH = 576, 12, 1, 32

TERMS = {
    "intake": ("at all", "video", "frame"),
    "extract": ("at all", "video", "frame"),
    "train": ("at all", "step"),
    "evaluate": ("at all", "video", "frame"),
    "around": ("at all", "video", "frame"),
}
"""Stage -> what its time is a sum of."""

SPREAD = ("extract", "evaluate")
"""Stages that every core of a cluster takes part in."""


LIKELY, LOOK_UP = 0.0020, 0.0005
"""Of near copies, on one core: a second of clip against a second of the stored clips that look likely (48 at most, in
sum), and against an hour of all that is stored. A few dozen clips show neither: taken apart on clips of up to 5 min."""


@dataclass(frozen=True, kw_only=True)
class Amount:
    """How much video; ``steps`` of training follow from the split and are read off a run."""

    videos: int
    frames: int  # of one video
    steps: float = 0.0

    def terms(self, stage: str) -> list[float]:
        counts = {"at all": 1.0, "video": self.videos, "frame": self.videos * self.frames, "step": self.steps}
        return [counts[term] for term in TERMS[stage]]


@dataclass(frozen=True, kw_only=True)
class Run:
    """A workspace from nothing to the gate's verdict."""

    amount: Amount
    seconds: dict[str, float]  # of every stage
    disk_bytes: dict[str, int]
    rounds: int = 1


Costs = Mapping[str, Mapping[str, float]]
"""Stage -> term -> seconds, on the cores of this machine."""


def main() -> None:
    options = read_options(__doc__)
    report = Report("cost", options)
    sizes = options.pick([(16, 24), (160, 24), (16, 480), (48, 240)], quick=[(12, 8), (16, 8), (12, 16), (16, 16)])
    runs = _measured([Amount(videos=videos, frames=frames) for videos, frames in sizes], options)
    for run in runs:
        report.add(asdict(run))
    seen = [(run.amount, run.seconds) for run in runs]
    costs = fitted(seen[:-1])
    report.add({"costs": costs, "size_px": SIZE_PX, "batch_images": BATCH})
    for stage, terms in costs.items():
        for term, seconds in terms.items():
            report.claim(figure(f"{stage}, {term}", 1000 * seconds, "ms"))
    amount, seconds = seen[-1]
    said, was = predicted(costs, amount), sum(seconds.values())
    report.claim(figure(f"{amount.videos} videos of {amount.frames} frames, predicted", sum(said.values()), "s"))
    report.claim(figure("the same, measured", was, "s"))
    report.claim(figure("predicted over measured", sum(said.values()) / was, "x"))
    for what, size in runs[-1].disk_bytes.items():
        report.claim(figure(f"on disk, {what}", size / (amount.videos * amount.frames), "bytes/frame"))
    report.finish()
    _print_forecast(costs)


# ---- measuring


def _measured(amounts: Sequence[Amount], options: Options) -> list[Run]:
    """A run of each amount, with the median seconds over all rounds."""
    phantoms = [_drawn(amount) for amount in amounts]
    rounds: list[list[Run]] = []
    turns = range(options.pick(3, quick=1) * len(amounts))
    for turn in track(turns, "runs", console=Console(stderr=True), transient=True):
        if turn % len(amounts) == 0:
            if rounds and options.time_is_up:
                break
            rounds.append([])
        place = turn % len(amounts)
        with tempfile.TemporaryDirectory(prefix="lclsc-cost-") as folder:
            rounds[-1].append(_run(Path(folder) / "workspace", phantoms[place], amounts[place]))
    return [_median(runs) for runs in zip(*rounds, strict=True)]


def _median(runs: Sequence[Run]) -> Run:
    seconds = {stage: statistics.median(run.seconds[stage] for run in runs) for stage in TERMS}
    return replace(runs[-1], seconds=seconds, rounds=len(runs))


def _drawn(amount: Amount) -> Path:
    """One video a patient, drawn once and kept; without masks, which clinics rarely have."""
    folder = MATERIAL / f"{amount.videos}x{amount.frames}"
    preset = dataset.SynthPreset(
        name="cost",
        classes=dataset.CLASSES,
        patients_per_class=amount.videos // len(dataset.CLASSES),
        videos_per_patient=1,
        frames=amount.frames,
        size_px=SIZE_PX,
        fps=FPS,
    )
    dataset.write_dataset(folder, preset, seed=0)
    rows = pd.read_csv(folder / dataset.MANIFEST, dtype=str)
    rows.drop(columns="mask").to_csv(folder / dataset.MANIFEST, index=False)
    return folder


def _run(root: Path, phantoms: Path, amount: Amount) -> Run:
    _lclsc("init", root, "--preset", "cpu")
    path = root / "params.yaml"
    document = yaml.safe_load(path.read_text())
    document["train"] |= {"epochs": EPOCHS, "batch_images": BATCH}
    path.write_text(yaml.safe_dump(document, sort_keys=False))
    intake, _ = _lclsc("intake", phantoms, "--workspace", root)
    whole, told = _lclsc("retrain", "--workspace", root)
    stages = {name: stage["seconds"] for name, stage in told["stages"].items()}
    trained = json.loads((root / "reports" / "train.json").read_text())["frames"]["train"]
    return Run(
        amount=replace(amount, steps=EPOCHS * sampling.steps_per_epoch(trained, BATCH)),
        seconds={"intake": intake, **stages, "around": whole - sum(stages.values())},
        disk_bytes={name: _size(root / name) for name in ("videos", "data/frames")},
    )


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir())


def _lclsc(*arguments: object) -> tuple[float, dict]:
    """Seconds and answer of a command; a verdict against a hardly trained model is an answer too."""
    command = [str(part) for part in (LCLSC, *arguments, "--json")]
    start = time.perf_counter()
    done = subprocess.run(
        command, env=os.environ | {"LCLSC_KEY_FILE": str(KEY)}, capture_output=True, text=True, check=False
    )
    if done.returncode not in (0, 1):
        raise RuntimeError(f"{command}: {done.stdout[-800:]}{done.stderr[-800:]}")
    return time.perf_counter() - start, json.loads(done.stdout)


# ---- the formula


def fitted(seen: Sequence[tuple[Amount, Mapping[str, float]]]) -> dict[str, dict[str, float]]:
    """Seconds a term, by least squares that allow nothing below zero (Lawson and Hanson, 1974)."""
    costs = {}
    for stage, terms in TERMS.items():
        rows = np.array([amount.terms(stage) for amount, _ in seen])
        scale = rows.max(axis=0)
        found, _ = nnls(rows / scale, np.array([seconds[stage] for _, seconds in seen]))
        costs[stage] = dict(zip(terms, (found / scale).tolist(), strict=True))
    return costs


def predicted(costs: Costs, amount: Amount, *, machines: float = 1.0) -> dict[str, float]:
    """Seconds of every stage on ``machines`` like this one; only what is spread grows shorter by them."""
    found = {}
    for stage, terms in costs.items():
        first, *others = (cost * count for cost, count in zip(terms.values(), amount.terms(stage), strict=True))
        found[stage] = first + sum(others) / (machines if stage in SPREAD else 1.0)
    return found


def near_copies(*, videos: int, length: float, stored_hours: float) -> float:
    """Seconds to hold clips of ``length`` seconds against so much video in clips as long, on one core."""
    return videos * length * (LIKELY * length + LOOK_UP * stored_hours)


def _print_forecast(costs: Costs, *, hours: int = 10_000, minutes: int = 5) -> None:
    """10 000 hours in clips of five minutes, all new; half of the frames are trained on, once."""
    frames = hours * 3600 * FPS
    videos = hours * 60 // minutes
    amount = Amount(videos=videos, frames=frames // videos, steps=0.5 * frames / BATCH)
    copies = near_copies(videos=videos, length=60 * minutes, stored_hours=hours / 2)  # on average, from none to all
    table = Table("days", *TERMS, "near copies", title=f"{hours} hours of video, {videos} clips, one epoch")
    for nodes in (1, 4, 16):
        seconds = predicted(costs, amount, machines=nodes * 16 / cores())
        days = [seconds[stage] / 86400 for stage in TERMS] + [copies / 86400]
        table.add_row(f"{nodes} nodes of 16 cores", *(f"{value:.3g}" for value in days))
    Console().print(table)


if __name__ == "__main__":
    main()
