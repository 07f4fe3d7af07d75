"""A folder of PNG files behind torch's own DataLoader, two workers."""

from functools import cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from loader_job import run_epoch
from serve import Numbers, serve


class Folder(Dataset):
    def __init__(self, folder: str) -> None:
        self.files = sorted(Path(folder).glob("*.png"))

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> torch.Tensor:
        return torch.from_numpy(np.array(Image.open(self.files[index])))


@cache
def loader(folder: str, batch: int) -> DataLoader:
    return DataLoader(Folder(folder), batch_size=batch, shuffle=True, num_workers=2, persistent_workers=True)


def measure(folder: str, batch: int) -> Numbers:
    return run_epoch(lambda: iter(loader(f"{folder}/png", batch)))


if __name__ == "__main__":
    serve(measure)
