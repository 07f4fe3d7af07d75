"""Frames a second from video files to verified Parquet, beside FFmpeg alone, OpenCV, decord, torchcodec and PyAV.

Ours is the whole stage on Ray with two workers: SHA-256 of the video, field of view, resampling, quality figures,
verdicts, Parquet with page checksums, fsync, SHA-256 of the shard, tables. The peers' scripts only decode, shrink
and store. Ray's own start is reported apart.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from harness import (
    ROOT,
    Case,
    Child,
    InProcess,
    NotMeasuredError,
    Options,
    Report,
    at_least,
    contest,
    figure,
    read_options,
    run_race,
)
from peers.serve import Numbers
from pipelines import code_digest, extract, manifest
from pipelines import params as parameters
from pipelines.files import sha256_file, write_json
from pipelines.manifest import Video
from pipelines.params import Params
from pipelines.synth.phantom import CLASSES, phantom_video
from pipelines.synth.write import write_video
from pipelines.workspace import Workspace, template_file

MATERIAL = ROOT / ".peers" / "material" / "extract"
SIZE_PX, FPS = 576, 12
SINGLE = ("PyAV", "decord", "torchcodec")


def main() -> None:
    options = read_options(__doc__)
    report = Report("extract", options)
    os.environ.setdefault("RAY_worker_niceness", "0")  # as the peers: Ray's workers give way to everything otherwise
    params = parameters.load(template_file("params.yaml"))
    clips = material(options)
    with tempfile.TemporaryDirectory(prefix="bench-extract-") as folder:
        race_speed(report, options, workspace_of(Path(folder), clips), params, clips)
    report.finish()


def material(options: Options) -> list[Path]:
    """Phantom clips, drawn once and kept."""
    count, frames = options.pick((8, 200), quick=(2, 24))
    folder = MATERIAL / f"{frames}-frames"
    clips = [folder / f"{number}.mp4" for number in range(count)]
    for number, clip in enumerate(clips):
        if not clip.exists():
            folder.mkdir(parents=True, exist_ok=True)
            drawn = phantom_video(
                seed=5,
                label=CLASSES[number % 4],
                patient=number // 4,
                video=number % 2,
                frames=frames,
                size_px=SIZE_PX,
            )
            write_video(clip, drawn.frames, fps=FPS)
    return clips


def workspace_of(folder: Path, clips: list[Path]) -> Workspace:
    """A workspace that holds these clips, one patient each."""
    workspace = Workspace(folder / "workspace")
    for own in (workspace.videos, workspace.state):
        own.mkdir(parents=True)
    for clip in clips:
        shutil.copyfile(clip, workspace.videos / f"{sha256_file(clip)}.mp4")
    record(workspace, [path.stem for path in workspace.videos.iterdir()])
    return workspace


def record(workspace: Workspace, video_ids: list[str]) -> None:
    """Tables and code.json, as intake and retrain write them."""
    rows = [
        Video(video_id=own, patient_id=f"p{n}", site="s", domain="ex-vivo", label=f"class-{n % 2}", mask_sha256="")
        for n, own in enumerate(sorted(video_ids))
    ]
    manifest.write_videos(workspace.manifest, rows)
    manifest.write_splits(workspace.splits, {row.patient_id: "train" for row in rows})
    write_json(workspace.code, code_digest.current())


# ---- speed


@dataclass
class Parallel(Child):
    """The same script in two processes, each with half of the clips."""

    def measure(self, case: Case) -> Numbers:
        return super().measure({**case, "processes": 2})


def race_speed(report: Report, options: Options, workspace: Workspace, params: Params, clips: list[Path]) -> None:
    ours = partial(extracted, workspace, params)
    start = time.perf_counter()
    first = ours([], params.extract.side_px)["seconds"]
    until_first = time.perf_counter() - start
    case = {"clips": [str(clip.relative_to(ROOT)) for clip in clips], "side_px": params.extract.side_px}
    script = {name: f"peers/extract_{name.lower()}.py" for name in SINGLE}
    contestants = [
        InProcess("ours", ours),
        InProcess("ffmpeg decode", partial(ffmpeg, None)),
        InProcess("ffmpeg decode + area + grey", partial(ffmpeg, "area")),
        Child("OpenCV to PNG", "peers/extract_opencv_png.py", env="video"),
        *(Child(name, script[name], env="video") for name in SINGLE),
        *(Parallel(f"{name}, two processes", script[name], env="video") for name in SINGLE),
    ]
    with contest(*contestants) as all_of_them:
        race = run_race(all_of_them, case, rounds=options.pick(5, quick=1), options=options)
    report.add(race)
    speed = partial(race.ratio, "ours", key="frames_per_second")
    report.claim(figure("ours", race.median("ours", "frames_per_second"), "frames/s"))
    report.claim(at_least("of ffmpeg decode + area + grey", speed("ffmpeg decode + area + grey"), 1.0, "x"))
    report.claim(at_least("of ffmpeg decode alone", speed("ffmpeg decode"), 0.9, "x"))
    report.claim(at_least("of OpenCV to a PNG folder", speed("OpenCV to PNG"), 3.0, "x"))
    for name in SINGLE:
        report.claim(at_least(f"of a {name} script", speed(name), 1.5, "x"))
    for name in SINGLE:
        report.claim(figure(f"of a {name} script in two processes", speed(f"{name}, two processes"), "x"))
    for name in ("ours", "OpenCV to PNG", "PyAV"):
        report.claim(figure(f"on disk, {name}", race.median(name, "bytes_per_frame"), "bytes/frame"))
    steady = race.median("ours") or 0.0
    report.claim(figure("start of Ray and of the first decoders", until_first - min(first, steady), "s"))


def extracted(workspace: Workspace, params: Params, clips: list[str], side_px: int) -> Numbers:
    """The stage from nothing; ``clips`` are those of the workspace."""
    shutil.rmtree(workspace.frames, ignore_errors=True)
    (workspace.state / "shards.json").unlink(missing_ok=True)
    start = time.perf_counter()
    report = extract.run(workspace, params)
    seconds = time.perf_counter() - start
    size = sum(path.stat().st_size for path in workspace.frames.iterdir())
    frames = report["frames"]
    return {"seconds": seconds, "frames_per_second": frames / seconds, "bytes_per_frame": size / frames}


def ffmpeg(scaled: str | None, clips: list[str], side_px: int) -> Numbers:
    """FFmpeg's own program with its default threads, one clip after another, to nothing."""
    if shutil.which("ffmpeg") is None:
        raise NotMeasuredError("ffmpeg is not installed")
    filters = ["-vf", f"scale={side_px}:{side_px}:flags={scaled},format=gray"] if scaled else []
    start = time.perf_counter()
    for clip in clips:
        command = ["ffmpeg", "-nostdin", "-v", "error", "-i", clip, *filters, "-f", "null", "-"]
        subprocess.run(command, check=True, cwd=ROOT)
    seconds = time.perf_counter() - start
    frames = len(clips) * int(Path(clips[0]).parent.name.split("-")[0])
    return {"seconds": seconds, "frames_per_second": frames / seconds}


if __name__ == "__main__":
    main()
