"""How much smoothing the smear figure needs: measured on the demo phantoms, whose faults are known.

Run    python docs/experiments/smear.py DEMO_PHANTOMS
Prints one row a smoothing width: smear of sharp and of smeared frames, and how well the figure tells them apart.

The faults come from the generator (seed 0), the pictures from the encoded videos, as extraction sees them.
S pixels a side.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from sklearn.metrics import roc_auc_score

from pipelines.synth.dataset import PRESETS
from pipelines.synth.phantom import CLASSES, patient_name, phantom_video
from pipelines.synth.probe import DIAGNOSTIC, SMEARED
from pipelines.video import clips, fov

SIDE_PX = 96
RIM_PX = 9  # one rim for every width, so that all rows see the same pixels
WIDTHS_PX = (1.0, 1.5, 2.0, 2.5, 3.0)


def frames(source: Path) -> Iterator[tuple[str, NDArray[np.uint8], NDArray[np.bool_]]]:
    """(fault, stored frame, core of its field of view) of every frame of the demo set."""
    preset = PRESETS["demo"]
    for label in CLASSES:
        for patient in range(preset.patients_per_class):
            for number in range(preset.videos_per_patient):
                path = source / label / patient_name(label, patient) / f"{number}.mp4"
                drawn = phantom_video(
                    seed=0, label=label, patient=patient, video=number, frames=preset.frames, size_px=preset.size_px
                )
                view = fov.of_frames(clips.read_frames(path))
                box = np.ones((2 * RIM_PX + 1, 2 * RIM_PX + 1), bool)
                core_SS = ndimage.binary_erosion(view.inside(SIDE_PX), box)
                for fault, frame in zip(drawn.faults, clips.read_frames(path), strict=True):
                    yield fault, fov.resample(frame.luma_HW, view, SIDE_PX), core_SS


def smear(image_SS: NDArray[np.uint8], core_SS: NDArray[np.bool_], width_px: float) -> float:
    """Largest over smallest directional gradient energy after a Gaussian of this standard deviation."""
    smooth_SS = ndimage.gaussian_filter(image_SS.astype(np.float64), width_px)
    gy, gx = (gradient[core_SS] for gradient in np.gradient(smooth_SS))
    low, high = np.linalg.eigvalsh([[(gx * gx).sum(), (gx * gy).sum()], [(gx * gy).sum(), (gy * gy).sum()]])
    return float(high / low)


def main(source: Path) -> None:
    found: dict[float, dict[str, list[float]]] = {width: defaultdict(list) for width in WIDTHS_PX}
    for fault, image_SS, core_SS in frames(source):
        if fault in (DIAGNOSTIC, SMEARED):
            for width in WIDTHS_PX:
                found[width][fault].append(smear(image_SS, core_SS, width))
    print("| smoothing, px | sharp frames: median | 99th percentile | smeared: 5th percentile | median | AUROC |")
    print("|---|---|---|---|---|---|")
    for width, figures in found.items():
        sharp, smeared = figures[DIAGNOSTIC], figures[SMEARED]
        auroc = roc_auc_score([0] * len(sharp) + [1] * len(smeared), sharp + smeared)
        low, high = np.percentile(sharp, [50, 99]), np.percentile(smeared, [5, 50])
        print(f"| {width} | {low[0]:.2f} | {low[1]:.2f} | {high[0]:.2f} | {high[1]:.2f} | {auroc:.3f} |")
    print(f"\n{len(sharp)} sharp and {len(smeared)} smeared frames")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
