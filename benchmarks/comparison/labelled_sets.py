"""The two labelled sets of the method table, as the trainer takes them; every patient is in one split only.

hard   the clips of `lclsc synth --preset hard`, cut and shrunk as extraction does it: drawn tissue, planted masks
elpv   photographs of mono-crystalline solar cells, sound against defective (package `elpv-dataset`, CC-BY-NC-SA 4.0):
       real grey texture, without masks. It names no module, so runs of ``ELPV_BLOCK`` neighbouring files stand for
       patients. Whether neighbours come from one module is a guess; if not, its test is easier than it looks.

Letters: N frames, S pixels a side.
"""

from __future__ import annotations

import hashlib
import itertools
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from harness import NotMeasuredError
from pipelines.params import ExtractParams
from pipelines.synth.dataset import PRESETS, SynthPreset
from pipelines.synth.phantom import patient_name, phantom_video
from pipelines.synth.probe import DIAGNOSTIC
from pipelines.training import Samples, concatenate
from pipelines.video import fov

SPLITS = ("train", "validation", "test")
HARD_SEED = 0
ELPV_BLOCK = 12  # files that stand for one patient
ELPV_SHARES = {"train": 0.5, "validation": 0.2, "test": 0.3}  # of the blocks, drawn once
ELPV_DEFECTIVE = 0.5  # from this probability on, of 0, 1/3, 2/3 and 1


@dataclass(frozen=True, kw_only=True, eq=False)
class LabelledSet:
    """Splits of one set; ``masks_NSS`` belongs to the test frames and is None where nothing was planted."""

    name: str
    classes: tuple[str, ...]
    splits: dict[str, Samples]
    masks_NSS: NDArray[np.bool_] | None

    @property
    def digest(self) -> str:
        """SHA-256 over every pixel, label, patient and mask: what the code that made them comes down to."""
        parts: list[bytes] = [] if self.masks_NSS is None else [np.packbits(self.masks_NSS).tobytes()]
        for samples in self.splits.values():
            parts += [samples.images_NSS.tobytes(), np.packbits(samples.fov_NSS).tobytes(), samples.labels_N.tobytes()]
            parts.append("\n".join((*samples.patients, *samples.videos)).encode())
        return hashlib.sha256(b"".join(parts)).hexdigest()

    def describe(self) -> dict[str, dict[str, int]]:
        """Frames and patients of every split."""
        return {
            split: {"frames": len(samples), "patients": len(set(samples.patients))}
            for split, samples in self.splits.items()
        }


def hard(extract: ExtractParams, *, quick: bool) -> LabelledSet:
    """The clips of the preset ``hard`` as they are drawn, before a codec; frames with a planted fault left out.

    The generator knows its faults: no threshold of extraction decides who is in this set.
    """
    preset = PRESETS["hard"]
    if quick:
        preset = replace(preset, classes=preset.classes[:2], frames=6, videos_per_patient=1)
    places = itertools.product(
        sorted(preset.classes), range(preset.patients_per_class), range(preset.videos_per_patient)
    )
    clips = [_clip(preset, *place, extract.side_px) for place in places]
    splits = {name: concatenate([samples for split, samples, _ in clips if split == name]) for name in SPLITS}
    masks_NSS = np.concatenate([masks for split, _, masks in clips if split == "test"])
    return LabelledSet(name="hard", classes=tuple(sorted(preset.classes)), splits=splits, masks_NSS=masks_NSS)


def _clip(
    preset: SynthPreset, label: str, patient: int, video: int, side_px: int
) -> tuple[str, Samples, NDArray[np.bool_]]:
    """The split of one clip, its diagnostic frames, and the masks of what was planted in them."""
    phantom = phantom_video(
        seed=HARD_SEED,
        label=label,
        patient=patient,
        video=video,
        frames=preset.frames,
        size_px=preset.size_px,
        conditions=preset.clinic,
    )
    view = fov.find_field_of_view(fov.brightest(phantom.frames))
    good = [index for index, fault in enumerate(phantom.faults) if fault == DIAGNOSTIC]
    name = patient_name(label, patient)
    samples = Samples(
        images_NSS=np.stack([fov.resample(phantom.frames[index], view, side_px) for index in good]),
        fov_NSS=np.broadcast_to(view.inside(side_px), (len(good), side_px, side_px)),
        labels_N=np.full(len(good), sorted(preset.classes).index(label), dtype=np.int64),
        patients=[name] * len(good),
        videos=[f"{name}/{video}"] * len(good),
    )
    masks_NSS = np.stack([fov.resample_mask(phantom.masks[index], view, side_px) for index in good])
    return preset.clinic.split_of(patient), samples, masks_NSS


def elpv(extract: ExtractParams, *, quick: bool) -> LabelledSet:
    """Mono-crystalline cells, area-averaged to the side of a stored frame; the whole square is field of view."""
    package = find_spec("elpv_dataset")
    if package is None or package.origin is None:
        raise NotMeasuredError("elpv-dataset is not installed: pip install --no-deps elpv-dataset==1.0.0.post1")
    folder, side_px = Path(package.origin).parent / "data", extract.side_px
    rows = [line.split() for line in (folder / "labels.csv").read_text().splitlines()]
    cells = [(name, float(chance)) for name, chance, kind in rows if kind == "mono"][:: 12 if quick else 1]
    images_NSS = np.stack([_shrunk(folder / name, side_px) for name, _ in cells])
    labels_N = np.array([chance < ELPV_DEFECTIVE for _, chance in cells], dtype=np.int64)
    block_N = np.arange(len(cells)) // (2 if quick else ELPV_BLOCK)
    split_of = _elpv_splits(int(block_N[-1]) + 1)
    splits = {}
    for split in SPLITS:
        own = np.flatnonzero([split_of[block] == split for block in block_N])
        splits[split] = Samples(
            images_NSS=images_NSS[own],
            fov_NSS=np.ones((len(own), side_px, side_px), dtype=bool),
            labels_N=labels_N[own],
            patients=[f"block {block_N[index]:03d}" for index in own],
            videos=[cells[index][0] for index in own],
        )
    return LabelledSet(name="elpv", classes=("defective", "sound"), splits=splits, masks_NSS=None)


def _elpv_splits(blocks: int) -> list[str]:
    """The split of every block, in the order of a seeded shuffle."""
    ends = (np.cumsum(list(ELPV_SHARES.values())) * blocks).round().astype(int)
    order = np.random.Generator(np.random.Philox(key=0)).permutation(blocks)
    place = np.empty(blocks, dtype=np.int64)
    place[order] = np.arange(blocks)
    return [SPLITS[int(np.searchsorted(ends, position, side="right"))] for position in place]


def _shrunk(path: Path, side_px: int) -> NDArray[np.uint8]:
    with Image.open(path) as picture:
        return np.asarray(picture.convert("L").resize((side_px, side_px), Image.Resampling.BOX))
