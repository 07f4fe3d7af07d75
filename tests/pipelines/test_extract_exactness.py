"""The same bytes on any processor; memory that does not grow with the clip; repeats in time found and no others."""

from __future__ import annotations

import ctypes
import json
import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from pipelines import params as parameters
from pipelines import shard_writer
from pipelines.files import sha256_file
from pipelines.synth.phantom import phantom_video
from pipelines.synth.probe import DIAGNOSTIC
from pipelines.synth.write import write_video
from pipelines.video.isolation import run_isolated
from pipelines.video.prepared import prepare
from pipelines.workspace import template_file

EXTRACT = parameters.load(template_file("params.yaml")).extract

PLAIN_PROCESSOR = {
    "NPY_DISABLE_CPU_FEATURES": " ".join(np._core._multiarray_umath.__cpu_dispatch__),
    "ARROW_USER_SIMD_LEVEL": "NONE",
    "OPENBLAS_CORETYPE": "Prescott",
}
"""Switches off what NumPy, Arrow and OpenBLAS choose by the processor; FFmpeg is told in the child."""


def shard_bytes(clip: Path, shard: Path, side_px: int) -> bytes:
    files = {"video_id": sha256_file(clip), "source": str(clip), "shard": str(shard), "mask": ""}
    shard_writer.write(files, EXTRACT.model_copy(update={"side_px": side_px}).model_dump())
    return shard.read_bytes()


def without_vector_extensions(clip: str, shard: str, side_px: str) -> None:
    """Main of the child: FFmpeg's own copy inside PyAV, told that the processor can do nothing special."""
    folder = Path(av.__file__).parent.parent / "av.libs"
    libavutil = ctypes.CDLL(str(next(folder.glob("libavutil*"))))
    libavutil.av_force_cpu_flags(0)
    assert libavutil.av_get_cpu_flags() == 0
    shard_bytes(Path(clip), Path(shard), int(side_px))


@pytest.mark.parametrize("side_px", [96, 224])
def test_a_processor_without_vector_extensions_writes_the_same_bytes(tmp_path: Path, side_px: int) -> None:
    clip = tmp_path / "clip.mp4"
    drawn = phantom_video(seed=3, label="glioma", patient=0, video=0, frames=12, size_px=320)
    write_video(clip, drawn.frames, fps=12)
    arguments = [str(clip), str(tmp_path / "plain"), str(side_px)]
    call = f"import test_extract_exactness as tests; tests.without_vector_extensions(*{arguments!r})"
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    done = subprocess.run(
        [sys.executable, "-c", call], env=os.environ | PLAIN_PROCESSOR | {"PYTHONPATH": path}, capture_output=True
    )
    assert done.returncode == 0, done.stderr.decode()[-500:]
    assert (tmp_path / "plain").read_bytes() == shard_bytes(clip, tmp_path / "vectors", side_px)


def peak_kib(files: dict[str, str], params: dict[str, Any]) -> int:
    shard_writer.write(files, params)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def test_memory_does_not_grow_with_the_length_of_a_clip(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    some_FHW = rng.integers(0, 255, (8, 128, 128)).astype(np.uint8)
    peaks = []
    for frames in (256, 1024):  # four full row groups and more; 12 MiB more grey in the longer one
        clip = tmp_path / f"{frames}.mp4"
        write_video(clip, np.tile(some_FHW, (frames // 8, 1, 1)), fps=12)
        files = {"video_id": sha256_file(clip), "source": str(clip), "shard": f"{clip}.parquet", "mask": ""}
        peaks.append(run_isolated(peak_kib, files, EXTRACT.model_dump()))
    assert peaks[1] - peaks[0] < 8 * 1024
    assert peaks[1] < 400 * 1024


def frozen(frames_FHW: NDArray[np.uint8], rng: np.random.Generator) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Two runs of a frozen picture and every tenth frame doubled, as a converted rate does; and which repeat."""
    source = []
    for index in range(len(frames_FHW)):
        source += [index] * (2 if index % 10 == 9 else 1)
    for _ in range(2):
        at = int(rng.integers(1, len(source) - 1))
        source[at:at] = [source[at - 1]] * int(rng.integers(2, 6))
    repeats_F = np.r_[False, np.diff(source) == 0]
    return frames_FHW[source], repeats_F


def test_repeats_and_faults_of_phantoms_are_found_and_little_else(tmp_path: Path, record_property: Any) -> None:
    rng = np.random.default_rng(1)
    dropped, repeats, kept_faults, faults, lost = [], [], 0, 0, 0
    for number, label in enumerate(("glioma", "healthy", "meningioma", "metastasis")):
        drawn = phantom_video(seed=7, label=label, patient=number, video=number % 2, frames=30, size_px=160)
        frames_FHW, repeats_F = frozen(drawn.frames, rng)
        write_video(tmp_path / f"{label}.mp4", frames_FHW, fps=12)
        write_video(tmp_path / f"{label}-plain.mp4", drawn.frames, fps=12)
        batches = list(prepare(tmp_path / f"{label}.mp4", EXTRACT, batch=64).batches)
        changes = [figure.change for batch in batches for figure in batch.figures]
        dropped += [change is not None and change < EXTRACT.min_change for change in changes]
        repeats += repeats_F.tolist()
        plain = list(prepare(tmp_path / f"{label}-plain.mp4", EXTRACT, batch=64).batches)
        reasons = [reason for batch in plain for reason in batch.reasons]
        faulty = [kind != DIAGNOSTIC for kind in drawn.faults]
        faults += sum(faulty)
        kept_faults += sum(bad and reason is None for bad, reason in zip(faulty, reasons, strict=True))
        lost += sum(reason is not None and not bad for bad, reason in zip(faulty, reasons, strict=True))
    hits = sum(found and true for found, true in zip(dropped, repeats, strict=True))
    figures = {
        "duplicates": sum(repeats),
        "duplicate precision": hits / max(1, sum(dropped)),
        "duplicate recall": hits / sum(repeats),
        "faults": faults,
        "fault precision": (faults - kept_faults) / max(1, faults - kept_faults + lost),
        "fault recall": (faults - kept_faults) / faults,
    }
    record_property("figures", json.dumps(figures))
    print(figures)
    assert figures["duplicate precision"] >= 0.98
    assert figures["duplicate recall"] >= 0.98
    assert figures["fault precision"] >= 0.95
    assert figures["fault recall"] >= 0.85
