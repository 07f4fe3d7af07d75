"""Hugging Face datasets: pixels as an Array2D in its own Arrow files, memory-mapped, torch format, two workers."""

from functools import cache
from pathlib import Path

import datasets
import numpy as np
from torch.utils.data import DataLoader

from loader_job import run_epoch
from serve import Numbers, serve


@cache
def loader(folder: str, batch: int) -> DataLoader:
    own = Path(folder) / "datasets"
    if not own.exists():
        images = np.load(f"{folder}/images.npy", mmap_mode="r")
        features = datasets.Features({"image": datasets.Array2D(images.shape[1:], "uint8")})
        datasets.Dataset.from_dict({"image": list(images)}, features=features).save_to_disk(str(own))
    data = datasets.load_from_disk(str(own)).with_format("torch")
    return DataLoader(data, batch_size=batch, shuffle=True, num_workers=2, persistent_workers=True)


def measure(folder: str, batch: int) -> Numbers:
    return run_epoch(lambda: (some["image"] for some in loader(folder, batch)))


if __name__ == "__main__":
    serve(measure)
