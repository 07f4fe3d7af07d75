"""What every loader's script does with its images: ready batches, cropped, mirrored and normalised."""

import time
from collections.abc import Callable, Iterator

import torch

CROP = 7 / 8  # of the side


def ready(images_BSS: torch.Tensor) -> torch.Tensor:
    """(B, S, S) uint8 to (B, 1, C, C) float: one random crop and mirror a batch, zero mean and unit spread."""
    side = images_BSS.shape[-1]
    crop = int(side * CROP)
    top, left = (int(edge) for edge in torch.randint(0, side - crop + 1, (2,)))
    images = images_BSS[:, None, top : top + crop, left : left + crop].float() / 255.0
    if bool(torch.rand(()) < 0.5):
        images = images.flip(-1)
    return (images - 0.27) / 0.19


def run_epoch(batches: Callable[[], Iterator[torch.Tensor]]) -> dict[str, float]:
    """Seconds for one shuffled pass; ``batches`` yields (B, S, S) uint8."""
    torch.set_num_threads(1)
    start, count, total = time.perf_counter(), 0, 0.0
    for images_BSS in batches():
        total += float(ready(images_BSS)[0, 0, 0, 0])
        count += len(images_BSS)
    seconds = time.perf_counter() - start
    return {"seconds": seconds, "images_per_second": count / seconds, "images": float(count)}
