"""LCL-SC against six other ways to train the same network, on two labelled sets, three seeds each.

Every cell (method, set, seed) is trained from scratch with the same encoder, views, batches, optimiser and number of
steps, one thread a cell. A finished cell is a line of results/method.cells.jsonl and is not measured again as long as
its code, data and parameters are the same: `--minutes` bounds a call and the next one goes on.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

import harness
from comparison import cell, labelled_sets, table
from comparison.baselines import METHODS, Method
from comparison.labelled_sets import LabelledSet
from harness import NotMeasuredError, Options, Report
from pipelines import params as parameters
from pipelines import sampling

SEEDS = (0, 1, 2)
STEPS = 288  # of 32 images in two views: 24 epochs of `hard`
CLAIMED = {"hard": ("macro_f1", "corruption", "saliency_iou"), "elpv": ("macro_f1", "corruption", "faithfulness")}
PAGE_HEAD = """# The method's table

Written by `python benchmarks/method.py`. Patients nobody trained on; mean over the seeds, 95 % interval over patients.
What it says and what it does not: [docs/method.md](../../docs/method.md).
"""


@dataclass(frozen=True, kw_only=True)
class Work:
    """One cell to measure; crosses a process border."""

    set_name: str
    method: str
    seed: int
    digest: str
    quick: bool


def main() -> None:
    options = harness.read_options(__doc__)
    report = Report("method", options)
    seeds = SEEDS[: options.pick(len(SEEDS), quick=1)]
    sets, missing = _sets(options.quick)
    wanted = [work for seed in seeds for data in sets.values() for work in _row(data, seed, options.quick)]
    path = report.path.with_suffix(".cells.jsonl")
    missing |= _measure_missing(wanted, path, options)
    found = _known(path)
    pages = []
    for data in sets.values():
        cells = _cells_of(data.name, wanted, found)
        pages.append(f"## {data.name}\n\n{table.markdown(cells)}\n")
        about = {"splits": data.describe(), "steps": _steps(options.quick), "not_measured": missing}
        report.add(table.record(data.name, cells, about))
        Console(width=200).print(table.rich_table(f"{data.name}: {data.describe()}", cells))
    for name, figures in CLAIMED.items():
        cells = _cells_of(name, wanted, found)
        for claim in table.claims(name, cells, figures, len(seeds)):
            report.claim(claim)
    report.finish()
    report.path.with_suffix(".md").write_text("\n".join((PAGE_HEAD, *pages)), encoding="utf-8")


def _steps(quick: bool) -> int:
    return 6 if quick else STEPS


def _sets(quick: bool) -> tuple[dict[str, LabelledSet], dict[str, str]]:
    """The sets that are there, and why others are not."""
    extract = parameters.load(harness.ROOT / "params.yaml").extract
    sets = {"hard": labelled_sets.hard(extract, quick=quick)}
    try:
        sets["elpv"] = labelled_sets.elpv(extract, quick=quick)
    except NotMeasuredError as reason:
        return sets, {"elpv": str(reason)}
    return sets, {}


def _row(data: LabelledSet, seed: int, quick: bool) -> Iterator[Work]:
    """One seed of every method on one set."""
    params = _train_params(data, seed, quick)
    for method in METHODS:
        digest = cell.digest(method, data, params)
        yield Work(set_name=data.name, method=method.name, seed=seed, digest=digest, quick=quick)


def _train_params(data: LabelledSet, seed: int, quick: bool) -> parameters.TrainParams:
    """The product's own training parameters; only the number of epochs follows the set's size."""
    params = parameters.load(harness.ROOT / "params.yaml").train
    per_epoch = sampling.steps_per_epoch(len(data.splits["train"]), params.batch_images)
    return params.model_copy(update={"seed": seed, "epochs": max(1, round(_steps(quick) / per_epoch))})


def _measure_missing(wanted: Sequence[Work], path: Path, options: Options) -> dict[str, str]:
    """Measure what has no line yet, a cell a core, and note each as it ends; returns what could not be measured."""
    known = _known(path)
    todo = [work for work in wanted if work.digest not in known]
    missing: dict[str, str] = {}
    longest, running = 0.0, dict[Future[dict[str, Any]], tuple[Work, float]]()
    with ProcessPoolExecutor(harness.cores(), mp_context=multiprocessing.get_context("spawn")) as pool:
        while todo or running:
            while todo and len(running) < harness.cores() and _fits(options, longest):
                work = todo.pop(0)
                running[pool.submit(_measure, work)] = (work, time.monotonic())
            if not running:
                break
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                work, began = running.pop(future)
                longest = max(longest, time.monotonic() - began)
                try:
                    _note(path, future.result())
                except NotMeasuredError as reason:
                    missing[work.method] = str(reason)
                print(f"{work.set_name}, {work.method}, seed {work.seed}: {longest:.0f} s at most", file=sys.stderr)
    return missing


def _fits(options: Options, longest: float) -> bool:
    """Would one more cell, as long as the longest so far, end in time?"""
    return options.deadline is None or time.monotonic() + longest < options.deadline


def _measure(work: Work) -> dict[str, Any]:
    """In a process of its own, so that its one thread is all there is."""
    data = _set(work.set_name, work.quick)
    method: Method = next(method for method in METHODS if method.name == work.method)
    params = _train_params(data, work.seed, work.quick)
    if cell.digest(method, data, params) != work.digest:
        raise RuntimeError("The code changed while this ran: start it again.")
    answer = cell.measure(method, data, params, probed_frames=8 if work.quick else cell.PROBED_FRAMES)
    return {"set": work.set_name, "method": work.method, "seed": work.seed, "digest": work.digest, **answer}


_LOADED: dict[str, LabelledSet] = {}


def _set(name: str, quick: bool) -> LabelledSet:
    """Read once a process."""
    if name not in _LOADED:
        _LOADED.update(_sets(quick)[0])
    return _LOADED[name]


def _known(path: Path) -> dict[str, dict[str, Any]]:
    """Measured cells by digest; a line cut short by a kill is no cell."""
    cells = {}
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        try:
            cell_found = json.loads(line)
        except ValueError:
            continue
        cells[cell_found["digest"]] = cell_found
    return cells


def _note(path: Path, measured: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(measured, sort_keys=True, allow_nan=False) + "\n")
        file.flush()
        os.fsync(file.fileno())


def _cells_of(name: str, wanted: Sequence[Work], found: dict[str, dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Measured cells of one set by method, in the order of methods and seeds."""
    own = [work for work in wanted if work.set_name == name]
    return {
        method.name: [found[work.digest] for work in own if work.method == method.name and work.digest in found]
        for method in METHODS
    }


if __name__ == "__main__":
    main()
