"""The two labelled sets of the method table, as the trainer takes them; every patient is in one split only.

hard   `lclsc synth --preset hard`, prepared as extraction prepares any clip: drawn tissue, with planted masks
elpv   photographs of mono-crystalline solar cells, sound against defective (package `elpv-dataset`, CC-BY-NC-SA 4.0):
       real grey texture, without masks. It names no module, so runs of ``ELPV_BLOCK`` neighbouring files stand for
       patients. Whether neighbours come from one module is a guess; if not, its test is easier than it looks.

Letters: N frames, S pixels a side.
"""

from __future__ import annotations

import csv
import hashlib
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from harness import NotMeasuredError
from pipelines import mask_stack, video
from pipelines.params import ExtractParams
from pipelines.synth.dataset import MANIFEST, PRESETS, write_dataset
from pipelines.training import Samples, concatenate
from pipelines.video import fov, quality

SPLITS = ("train", "validation", "test")
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


def hard(folder: Path, extract: ExtractParams, *, quick: bool) -> LabelledSet:
    """Phantoms of the preset ``hard``, drawn in ``folder`` where they are not there yet; kept frames only."""
    preset = PRESETS["hard"]
    if quick:
        preset = replace(preset, classes=preset.classes[:2], frames=6, videos_per_patient=1)
    write_dataset(folder, preset, seed=0)
    classes = tuple(sorted(preset.classes))
    with (folder / MANIFEST).open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    clips = [(row["split"], *_clip(folder, row, classes, extract)) for row in rows]
    splits = {name: concatenate([samples for split, samples, _ in clips if split == name]) for name in SPLITS}
    masks_NSS = np.concatenate([masks for split, _, masks in clips if split == "test"])
    return LabelledSet(name="hard", classes=classes, splits=splits, masks_NSS=masks_NSS)


def _clip(
    folder: Path, row: dict[str, str], classes: tuple[str, ...], extract: ExtractParams
) -> tuple[Samples, NDArray[np.bool_]]:
    """Kept frames of one clip and the masks of what was planted in them."""
    path, side_px = folder / row["path"], extract.side_px
    frames = list(video.read_frames(path))
    view = fov.of_frames(frames)
    inside_SS = view.inside(side_px)
    images_NSS = np.stack([fov.resample(frame.luma_HW, view, side_px) for frame in frames])
    keep_N = np.array([quality.judge(quality.measure(image, inside_SS), extract) is None for image in images_NSS])
    masks_NSS = np.stack([fov.resample_mask(page, view, side_px) for page in mask_stack.read(folder / row["mask"])])
    kept = int(keep_N.sum())
    samples = Samples(
        images_NSS=images_NSS[keep_N],
        fov_NSS=np.broadcast_to(inside_SS, (kept, side_px, side_px)),
        labels_N=np.full(kept, classes.index(row["label"]), dtype=np.int64),
        patients=[row["patient_id"]] * kept,
        videos=[row["path"]] * kept,
    )
    return samples, masks_NSS[keep_N]


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
