"""Trace and status in a large workspace: 10 000 videos of 2 000 patients, 1 000 000 frames, 100 registered versions.

The workspace is drawn, in the real formats: manifest and splits, 100 git commits with their dvc.lock, the stages'
tables as objects in DVC's cache, one line of the ledger a version. Only videos, shards and models are not there:
neither command opens them. The index is made by the first question, whose time is reported.

    in process      the question alone, as a service would ask it: git and the ledger are looked at, nothing imported
    whole command   from the shell, Python's start included
"""

import csv
import hashlib
import io
import random
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from harness import Options, Report, at_most, figure, read_options
from orchestration import LCLSC
from pipelines import initialise, ledger, manifest, settings, status, versioning
from pipelines.evidence import trace
from pipelines.extract import TEST_COLUMNS, TRAIN_COLUMNS
from pipelines.manifest import Video
from pipelines.object_stores import place
from pipelines.workspace import Workspace

VIDEOS, PATIENTS, VERSIONS, FRAMES_OF_A_VIDEO = 10_000, 2_000, 100, 100
LABELS = ("glioma", "healthy", "meningioma")
SEED = 5


def main() -> None:
    options = read_options(__doc__)
    settings.apply()
    report = Report("trace", options)
    with tempfile.TemporaryDirectory(prefix="lclsc-trace-") as folder:
        workspace = drawn(Path(folder) / "workspace", scale=options.pick(1, quick=20))
        started = time.perf_counter()
        trace.run(workspace, "model", "1")
        report.claim(figure("making the index", time.perf_counter() - started, "s"))
        _measure_trace(report, workspace, options)
        _measure_status(report, workspace, options)
    report.finish()


# ---- the workspace


def drawn(root: Path, *, scale: int) -> Workspace:
    """Version k of n was built from the first k/n of the videos; its number is its place in the ledger."""
    initialise.run(root, preset="cpu", remote=None)
    workspace, count, versions = Workspace(root), VIDEOS // scale, VERSIONS // scale
    patients = [f"kdrawn-{number:016d}" for number in range(PATIENTS // scale)]
    splits = {patient: ("train", "train", "train", "validation", "test")[n % 5] for n, patient in enumerate(patients)}
    videos = [_video(number, patients[number % len(patients)]) for number in range(count)]
    for version in range(1, versions + 1):
        seen = videos[: count * version // versions]
        kept = {video.patient_id: splits[video.patient_id] for video in seen}
        manifest.write_videos(workspace.manifest, seen)
        manifest.write_splits(workspace.splits, kept)
        _write_lock(workspace, seen, kept)
        versioning.commit(workspace, ("manifest.csv", "splits.csv", "dvc.lock"), f"Build version {version}")
        commit = versioning.head(workspace)
        data = {"version": str(version), "lineage_sha256": _sha256(f"lineage {version}"), "commit": commit}
        ledger.append(workspace, actor="drawn", event="registered", subject=f"version {version}", data=data)
    move = {"alias": "champion", "from": None, "to": str(versions)}
    ledger.append(workspace, actor="drawn", event="promoted", subject=f"version {versions}", data=move)
    versioning.commit(workspace, ("ledger.jsonl",), "Register them")
    return workspace


def _video(number: int, patient_id: str) -> Video:
    label = LABELS[number % len(LABELS)]
    return Video(
        video_id=_sha256(f"video {number}"),
        patient_id=patient_id,
        site=f"site {number % 7}",
        domain="ex-vivo",
        label=label,
        mask_sha256="",
    )


def _write_lock(workspace: Workspace, videos: list[Video], splits: dict[str, str]) -> None:
    rows = [_row(video, splits[video.patient_id]) for video in videos]
    tables = {
        "data/train.csv": _table(TRAIN_COLUMNS, (row for row in rows if row["split"] != "test")),
        "data/test.csv": _table(TEST_COLUMNS, (row for row in rows if row["split"] == "test")),
    }
    outs = []
    for path, content in tables.items():
        md5 = hashlib.md5(content, usedforsecurity=False).hexdigest()
        target = workspace.root / ".dvc" / "cache" / place(md5)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
        outs.append({"path": path, "hash": "md5", "md5": md5, "size": len(content)})
    stages = {"extract": {"cmd": "python -m pipelines.extract", "outs": outs}}
    workspace.dvc_lock.write_text(yaml.safe_dump({"schema": "2.0", "stages": stages}))


def _row(video: Video, split: str) -> dict[str, Any]:
    return {
        "video_id": video.video_id,
        "patient_id": video.patient_id,
        "split": split,
        "label": video.label,
        "shard": f"{video.video_id}-0123456789ab.parquet",
        "shard_sha256": _sha256(f"shard {video.video_id}"),
        "frames": FRAMES_OF_A_VIDEO,
        "kept": FRAMES_OF_A_VIDEO - 7,
        "site": video.site,
        "domain": video.domain,
        "mask_shard": "",
        "mask_shard_sha256": "",
    }


def _table(columns: tuple[str, ...], rows: Iterator[dict[str, Any]]) -> bytes:
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


# ---- what is measured


def _measure_trace(report: Report, workspace: Workspace, options: Options) -> None:
    videos = manifest.read_videos(workspace.manifest)
    chance = random.Random(SEED)
    newest = len(ledger.read(workspace.ledger)) - 1
    names: dict[str, Callable[[], str]] = {
        "patient": lambda: chance.choice(videos).patient_id,
        "video": lambda: chance.choice(videos).video_id[:12],
        "frame": lambda: f"{chance.choice(videos).video_id}:{chance.randrange(FRAMES_OF_A_VIDEO)}",
        "model": lambda: str(chance.randint(1, newest)),
    }
    everything: list[float] = []
    for kind, name in names.items():
        questions = [partial(trace.run, workspace, kind, name()) for _ in range(options.pick(250, quick=5))]
        seconds = [_timed(question) for question in questions]
        everything += seconds
        report.add(
            {"kind": kind, "questions": len(seconds), "median": statistics.median(seconds), "p99": _p99(seconds)}
        )
        report.claim(at_most(f"trace {kind}, in process, p99", 1000 * _p99(seconds), 50, "ms"))
    report.claim(at_most("trace, all kinds, in process, p99", 1000 * _p99(everything), 50, "ms"))
    commands = [
        _command("trace", kind, name()) for kind, name in names.items() for _ in range(options.pick(5, quick=1))
    ]
    seconds = [_timed(partial(_call, command, workspace)) for command in commands]
    report.claim(figure("trace, whole command, median", 1000 * statistics.median(seconds), "ms"))


def _measure_status(report: Report, workspace: Workspace, options: Options) -> None:
    inside = [_timed(partial(status.run, workspace)) for _ in range(options.pick(7, quick=1))]
    report.claim(figure("status, in process, median", statistics.median(inside), "s"))
    whole = [_timed(partial(_call, _command("status"), workspace)) for _ in range(options.pick(9, quick=1))]
    report.add({"status": whole})
    report.claim(at_most("status, whole command, median", statistics.median(whole), 1, "s"))


def _command(*arguments: str) -> list[str]:
    return [str(LCLSC), *arguments, "--json"]


def _call(command: list[str], workspace: Workspace) -> None:
    subprocess.run([*command, "--workspace", str(workspace.root)], check=True, stdout=subprocess.DEVNULL)


def _timed(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def _p99(seconds: list[float]) -> float:
    return sorted(seconds)[min(len(seconds) - 1, round(0.99 * len(seconds)))]


if __name__ == "__main__":
    main()
