"""What extraction may cost beside decoding: bookkeeping with nothing to do, and memory for an hour of video.

Bookkeeping is processor time, which a busy machine does not change much.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

from extract import FPS, record
from harness import ROOT, Report, at_most, read_options
from pipelines import code_digest
from pipelines import extract as stage
from pipelines import params as parameters
from pipelines.files import sha256_bytes
from pipelines.params import Params
from pipelines.shards import ShardIndex
from pipelines.video.clips import decoder_identity
from pipelines.workspace import Workspace, template_file


def main() -> None:
    options = read_options(__doc__)
    report = Report("extract_bounds", options)
    params = parameters.load(template_file("params.yaml"))
    with tempfile.TemporaryDirectory(prefix="bench-bounds-") as name:
        folder = Path(name)
        for videos in options.pick((100, 1000, 10000), quick=(100,)):
            seconds = bookkeeping(folder / f"w{videos}", videos, params)
            report.add({"case": {"bookkeeping_videos": videos}, "processor_seconds": seconds})
            report.claim(at_most(f"bookkeeping a video, {videos} videos", 1000 * seconds / videos, 1.0, "ms"))
        minutes = options.pick(60, quick=1)
        for size_px in (192, 576):
            peak = peak_mib(folder, minutes, size_px)
            report.claim(at_most(f"memory of a worker, {minutes} minutes at {size_px} px", peak, 400, "MiB"))
    report.finish()


# ---- bookkeeping


def bookkeeping(root: Path, videos: int, params: Params) -> float:
    """Seconds of processor time of a run that finds everything done."""
    workspace = Workspace(root)
    for own in (workspace.videos, workspace.state, workspace.frames):
        own.mkdir(parents=True)
    video_ids = [sha256_bytes(str(number).encode()) for number in range(videos)]
    record(workspace, video_ids)
    clip = workspace.videos / f"{video_ids[0]}.mp4"
    clip.write_bytes(b"\0\0\0\x18ftypisom")
    code = code_digest.stage_digest(workspace, "extract")
    recipe = stage.recipe_of(params.extract, code, decoder_identity(clip))
    index = ShardIndex(workspace)
    for video_id in video_ids:
        (workspace.videos / f"{video_id}.mp4").write_bytes(clip.read_bytes())
        shard = workspace.frames / f"{video_id}-{recipe}.parquet"
        shard.write_bytes(video_id.encode())
        index.note(
            shard, {"frames": 200, "kept": 170, "reasons": {"dark": 20, "smeared": 10}, "shape": "disc", "window": None}
        )
    index.save({workspace.frames / f"{video_id}-{recipe}.parquet" for video_id in video_ids})
    start = time.process_time()
    stage.run(workspace, params, map_items=nothing_to_do)
    return time.process_time() - start


def nothing_to_do(_: object, items: list[object], **__: object) -> list[object]:
    assert not items
    return []


# ---- memory


def peak_mib(folder: Path, minutes: int, size_px: int) -> float:
    """The largest resident size of a process that extracts one long clip."""
    clip = folder / f"long-{size_px}.mp4"
    source = f"testsrc2=size=192x192:rate={FPS}:duration={60 * minutes}"
    scaled = ["-vf", f"scale={size_px}:{size_px}:flags=neighbor", "-preset", "ultrafast"]
    command = ["ffmpeg", "-nostdin", "-v", "error", "-f", "lavfi", "-i", source, *scaled, str(clip)]
    subprocess.run(command, check=True)
    child = [sys.executable, "-c", MEMORY_SCRIPT, str(clip)]
    done = subprocess.run(child, check=True, capture_output=True, text=True, cwd=ROOT)
    clip.unlink()
    return float(done.stdout)


MEMORY_SCRIPT = """
import resource, sys
from pathlib import Path
from pipelines import params, shard_writer
from pipelines.files import sha256_file
from pipelines.workspace import template_file

clip = sys.argv[1]
files = {"video_id": sha256_file(Path(clip)), "source": clip, "shard": clip + ".parquet", "mask": ""}
shard_writer.write(files, params.load(template_file("params.yaml")).extract.model_dump())
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""


if __name__ == "__main__":
    main()
