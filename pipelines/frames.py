"""Stored frames as arrays: what training and scoring read from the shards that extraction wrote."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipelines.errors import StageError
from pipelines.files import sha256_file
from pipelines.video import geometry

COLUMNS = ["frame_index", "image", "keep", *geometry.COLUMNS]


@dataclass(frozen=True, kw_only=True, eq=False)
class Frames:
    """N frames of one video, S pixels a side."""

    frame_index_N: NDArray[np.int32]
    images_NSS: NDArray[np.uint8]
    fov_NSS: NDArray[np.bool_]
    keep_N: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.frame_index_N)

    def kept(self) -> Frames:
        keep = self.keep_N
        return Frames(
            frame_index_N=self.frame_index_N[keep],
            images_NSS=self.images_NSS[keep],
            fov_NSS=self.fov_NSS[keep],
            keep_N=keep[keep],
        )


def read_table(path: Path) -> pd.DataFrame:
    """data/train.csv or data/test.csv; every cell a string but the counts."""
    counts = {"frames": "int64", "kept": "int64"}
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    return table.astype({name: kind for name, kind in counts.items() if name in table})


def rows(table: pd.DataFrame) -> list[dict[str, Any]]:
    """The table's rows, each by column name."""
    return [{str(name): value for name, value in row.items()} for row in table.to_dict("records")]


def read_shard(path: Path, sha256: str) -> Frames:
    """A shard's frames, once its bytes are known to be the recorded ones."""
    require_bytes(path, sha256)
    table = pq.read_table(path, columns=COLUMNS)
    images_NSS = _pictures(table, "image")
    rows = table.select(geometry.COLUMNS).to_pylist()
    masks = {tuple(row.values()): geometry.inside_mask(row, images_NSS.shape[-1]) for row in rows}
    return Frames(
        frame_index_N=table["frame_index"].to_numpy(),
        images_NSS=images_NSS,
        fov_NSS=np.stack([masks[tuple(row.values())] for row in rows]),
        keep_N=table["keep"].to_numpy(),
    )


def read_masks(path: Path, sha256: str) -> NDArray[np.bool_]:
    """Ground truth of one video, (N, S, S), in the order of its frames."""
    require_bytes(path, sha256)
    return _pictures(pq.read_table(path, columns=["mask"]), "mask").astype(bool)


def require_bytes(path: Path, sha256: str) -> None:
    if not path.exists() or sha256_file(path) != sha256:
        raise StageError(
            "shard_differs",
            f"The shard {path.name} is missing or not the one recorded.",
            "Run `lclsc retrain`: extraction rebuilds what does not verify.",
        )


def _pictures(table: object, column: str) -> NDArray[np.uint8]:
    pictures: NDArray[np.uint8] = table[column].combine_chunks().to_numpy_ndarray()  # type: ignore[index]
    return pictures
