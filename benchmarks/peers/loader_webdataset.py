"""WebDataset as its README reads a set: shards of PNG in tar files, a shuffle buffer, two workers."""

from functools import cache
from pathlib import Path

import numpy as np
import torch
import webdataset as wds

from loader_job import run_epoch
from serve import Numbers, serve


@cache
def loader(folder: str, batch: int) -> wds.WebLoader:
    shards = sorted(str(shard) for shard in Path(folder).glob("tar/*.tar"))
    images = wds.WebDataset(shards, shardshuffle=len(shards)).shuffle(1000).decode("l8").to_tuple("png")
    return wds.WebLoader(images.batched(batch), batch_size=None, num_workers=2, persistent_workers=True)


def measure(folder: str, batch: int) -> Numbers:
    return run_epoch(lambda: (torch.from_numpy(np.stack(images)) for (images,) in loader(folder, batch)))


if __name__ == "__main__":
    serve(measure)
