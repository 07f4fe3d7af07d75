"""Lance: pixels as a fixed-size list, batches taken by random row numbers."""

from collections.abc import Iterator
from functools import cache
from pathlib import Path

import lance
import numpy as np
import pyarrow as pa
import torch

from loader_job import run_epoch
from serve import Numbers, serve


@cache
def opened(folder: str) -> tuple[lance.LanceDataset, int]:
    own = Path(folder) / "lance"
    images = np.load(f"{folder}/images.npy", mmap_mode="r")
    if not own.exists():
        flat = pa.FixedSizeListArray.from_arrays(pa.array(images.ravel()), images[0].size)
        lance.write_dataset(pa.table({"image": flat}), str(own))
    return lance.dataset(str(own)), images.shape[-1]


def batches(folder: str, batch: int) -> Iterator[torch.Tensor]:
    data, side = opened(folder)
    order = np.random.permutation(data.count_rows())
    for start in range(0, len(order), batch):
        column = data.take(order[start : start + batch].tolist(), columns=["image"])["image"].combine_chunks()
        yield torch.from_numpy(column.flatten().to_numpy().reshape(-1, side, side).copy())


def measure(folder: str, batch: int) -> Numbers:
    return run_epoch(lambda: batches(folder, batch))


if __name__ == "__main__":
    serve(measure)
