"""Whole folders of phantom material, ready for intake.

Writes  <out>/<label>/<raw patient>/<n>.mp4        videos
        <out>/masks/<label>/<raw patient>/<n>.tif  planted structures, one page a frame
        <out>/manifest.csv                         one row a video, sorted by path; COLUMNS below, and `split`
                                                   where the preset decides who is tested
        <out>/synth.json                           what was asked for, and the SHA-256 of every finished video
"""

from __future__ import annotations

import csv
import io
import multiprocessing
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import tifffile

from pipelines import mask_stack
from pipelines.files import (
    canonical_json,
    read_json,
    remove_temporaries,
    sha256_file,
    write_bytes,
    write_text,
)
from pipelines.synth.conditions import CONDITIONS, Conditions
from pipelines.synth.phantom import CLASSES, domain_of, patient_name, phantom_video, site_of
from pipelines.synth.write import write_video

FORMAT = "synth/1"
RECIPE = 1  # raise it when the same parameters no longer draw the same pixels
COLUMNS = ("path", "patient_id", "label", "domain", "site", "mask", "sha256")
MANIFEST, RECORD = "manifest.csv", "synth.json"

# Below this much work the start of other processes (about a second) costs more than it saves.
SMALL_WORK_PIXELS = 8_000_000


@dataclass(frozen=True, kw_only=True)
class SynthPreset:
    """How much phantom material of which kind."""

    name: str
    classes: tuple[str, ...]
    patients_per_class: int
    videos_per_patient: int
    frames: int  # a video
    size_px: int  # side of a frame, even
    fps: int
    conditions: str = "usual"  # a key of CONDITIONS

    @property
    def clinic(self) -> Conditions:
        return CONDITIONS[self.conditions]


PRESETS: dict[str, SynthPreset] = {
    preset.name: preset
    for preset in (
        SynthPreset(
            name="demo",
            classes=CLASSES,
            patients_per_class=6,
            videos_per_patient=2,
            frames=24,
            size_px=160,
            fps=12,
        ),
        SynthPreset(
            name="micro",
            classes=("glioma", "healthy", "meningioma"),
            patients_per_class=5,
            videos_per_patient=1,
            frames=12,
            size_px=96,
            fps=12,
        ),
        SynthPreset(
            name="hard",
            classes=CLASSES,
            patients_per_class=12,
            videos_per_patient=2,
            frames=14,
            size_px=128,
            fps=12,
            conditions="hard",
        ),
    )
}


@dataclass(frozen=True, kw_only=True)
class SynthReport:
    """What a call to `write_dataset` did."""

    out: Path
    patients: int
    videos: int
    frames: int
    written: int  # videos made by this call
    kept: int  # videos found complete


@dataclass(frozen=True, kw_only=True)
class _Task:
    """One video to make; crosses a process border."""

    out: Path
    preset: SynthPreset
    seed: int
    label: str
    patient: int
    video: int

    @property
    def path(self) -> str:
        return f"{self.label}/{patient_name(self.label, self.patient)}/{self.video}.mp4"

    @property
    def mask(self) -> str:
        return f"masks/{self.label}/{patient_name(self.label, self.patient)}/{self.video}.tif"


def write_dataset(
    out: Path,
    preset: SynthPreset,
    *,
    seed: int,
    first_patient: int = 0,
    patients_per_class: int | None = None,
    on_video: Callable[[int, int], None] | None = None,
) -> SynthReport:
    """Write phantom videos, masks, manifest and record to ``out``, or finish there what an equal call began.

    Patient k of a class depends on the seed and on k alone: a later call with a higher ``first_patient`` adds
    different patients of the same kind. ``on_video(done, total)`` is called here after every video made.
    """
    if patients_per_class is None:
        patients_per_class = preset.patients_per_class
    _check(preset, seed=seed, first_patient=first_patient, patients_per_class=patients_per_class)
    request = _request(preset, seed=seed, first_patient=first_patient, patients_per_class=patients_per_class)
    _claim(out, request)
    tasks = list(_tasks(out, preset, seed, range(first_patient, first_patient + patients_per_class)))
    known = _known_digests(out)
    todo = [task for task in tasks if not _is_complete(task, known)]
    done = len(tasks) - len(todo)
    for _ in _run(todo):
        done += 1
        if on_video is not None:
            on_video(done, len(tasks))
    _finish(out, tasks, request)
    return SynthReport(
        out=out,
        patients=len(preset.classes) * patients_per_class,
        videos=len(tasks),
        frames=len(tasks) * preset.frames,
        written=len(todo),
        kept=len(tasks) - len(todo),
    )


def _check(preset: SynthPreset, *, seed: int, first_patient: int, patients_per_class: int) -> None:
    unknown = sorted(set(preset.classes) - set(CLASSES))
    if unknown or not preset.classes:
        raise ValueError(f"No phantom exists for the classes {unknown}. Choose some of {', '.join(CLASSES)}.")
    if preset.size_px % 2 or preset.size_px < 64:
        raise ValueError(f"size_px is {preset.size_px}; cores and H.264 need an even number from 64 up.")
    if preset.frames < 6:
        raise ValueError(f"frames is {preset.frames}; a video with non-diagnostic runs needs 6 or more.")
    if min(patients_per_class, preset.videos_per_patient, preset.fps) < 1 or min(seed, first_patient) < 0:
        raise ValueError(
            f"patients_per_class ({patients_per_class}), videos_per_patient ({preset.videos_per_patient}) "
            f"and fps ({preset.fps}) must be 1 or more, seed ({seed}) and first_patient ({first_patient}) 0 "
            "or more."
        )


def _request(preset: SynthPreset, *, seed: int, first_patient: int, patients_per_class: int) -> dict[str, Any]:
    """What decides the pixels; two calls with the same request may share a folder."""
    parameters = {
        **asdict(preset),
        "classes": sorted(preset.classes),
        "patients_per_class": patients_per_class,
    }
    if preset.conditions == "usual":  # records written before there were others do not name them
        del parameters["conditions"]
    return {
        "format": FORMAT,
        "recipe": RECIPE,
        "preset": parameters.pop("name"),
        "seed": seed,
        "first_patient": first_patient,
        **parameters,
    }


def _claim(out: Path, request: dict[str, Any]) -> None:
    """Take an empty folder, or one that an equal request has begun; refuse any other before touching it."""
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out} is not a folder. Name a new or empty folder for the phantoms.")
    if out.is_dir() and any(not entry.name.startswith(".tmp-") for entry in out.iterdir()):
        earlier = _earlier_request(out)
        if earlier is None:
            raise ValueError(f"{out} is not empty and holds no phantom set. Name a new or empty folder.")
        different = sorted(key for key in request.keys() | earlier.keys() if request.get(key) != earlier.get(key))
        if different:
            raise ValueError(
                f"{out} holds phantoms made with another {', '.join(different)}. "
                "Name a new folder, or repeat the earlier call's parameters to continue it."
            )
        return
    # An empty list of videos: until they are finished, none of them counts as published material.
    write_bytes(out / RECORD, canonical_json({**request, "videos": []}))


def _earlier_request(out: Path) -> dict[str, Any] | None:
    try:
        record = read_json(out / RECORD)
    except (OSError, ValueError):
        return None
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        return None
    return {key: value for key, value in record.items() if key != "videos"}


def _tasks(out: Path, preset: SynthPreset, seed: int, patients: range) -> Iterator[_Task]:
    for label in sorted(preset.classes):
        for patient in patients:
            for video in range(preset.videos_per_patient):
                yield _Task(out=out, preset=preset, seed=seed, label=label, patient=patient, video=video)


def _known_digests(out: Path) -> dict[str, str]:
    """path -> SHA-256 from the manifest of an earlier, finished call."""
    try:
        with (out / MANIFEST).open(encoding="utf-8", newline="") as file:
            return {row["path"]: row["sha256"] for row in csv.DictReader(file)}
    except (OSError, KeyError):
        return {}


def _is_complete(task: _Task, known: dict[str, str]) -> bool:
    """Files appear whole or not at all; a finished set also knows what its videos must hash to."""
    video, mask = task.out / task.path, task.out / task.mask
    for folder in {video.parent, mask.parent}:
        remove_temporaries(folder)
    if not video.is_file() or not _has_pages(mask, task.preset.frames):
        return False
    return task.path not in known or sha256_file(video) == known[task.path]


def _has_pages(mask: Path, frames: int) -> bool:
    try:
        with tifffile.TiffFile(mask) as stack:
            return len(stack.pages) == frames
    except (OSError, ValueError):
        return False


def _run(tasks: list[_Task]) -> Iterator[None]:
    """Make the videos on all cores, in any order: they share nothing."""
    pixels = sum(task.preset.frames * task.preset.size_px**2 for task in tasks)
    workers = min(os.cpu_count() or 1, len(tasks))
    if workers < 2 or pixels < SMALL_WORK_PIXELS:
        yield from map(_make, tasks)
        return
    # Spawned, not forked: the caller may hold threads and locks of other libraries.
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        for future in as_completed([pool.submit(_make, task) for task in tasks]):
            yield future.result()


def _make(task: _Task) -> None:
    phantom = phantom_video(
        seed=task.seed,
        label=task.label,
        patient=task.patient,
        video=task.video,
        frames=task.preset.frames,
        size_px=task.preset.size_px,
        conditions=task.preset.clinic,
    )
    mask_stack.write(task.out / task.mask, phantom.masks)
    write_video(task.out / task.path, phantom.frames, fps=task.preset.fps)


def _finish(out: Path, tasks: list[_Task], request: dict[str, Any]) -> None:
    """Manifest, then record: a set whose record lists videos is whole."""
    rows = sorted(_row(task) for task in tasks)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows([COLUMNS + ("split",) * bool(tasks[0].preset.clinic.split), *rows])
    write_text(out / MANIFEST, text.getvalue())
    digests = sorted(row[COLUMNS.index("sha256")] for row in rows)
    write_bytes(out / RECORD, canonical_json({**request, "videos": digests}))


def _row(task: _Task) -> tuple[str, ...]:
    clinic = task.preset.clinic
    patient_id, domain = patient_name(task.label, task.patient), domain_of(task.patient, task.video, clinic)
    site, digest = site_of(task.label, task.patient, clinic), sha256_file(task.out / task.path)
    row = (task.path, patient_id, task.label, domain, site, task.mask, digest)
    return (*row, clinic.split_of(task.patient)) if clinic.split else row
