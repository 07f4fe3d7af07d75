"""One video into its shards. Runs in a child with limits: nothing here knows Ray or the workspace."""

from __future__ import annotations

from collections import Counter
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pandas  # noqa: F401  what Arrow and Pillow import at first use: once in the nursery, not in every child
import pyarrow as pa
import pyarrow.compute
import tifffile
from PIL import ImageFile  # noqa: F401

from pipelines import schemas
from pipelines.errors import VideoError
from pipelines.params import ExtractParams
from pipelines.video import clips, fov, geometry
from pipelines.video.prepared import Batch, Prepared, batched, prepare
from pipelines.video.quality import Quality

FIGURES = [field.name for field in fields(Quality)]

Files = dict[str, str]
"""``video_id``, ``source``, ``shard``, ``mask``, ``mask_sha256``, ``mask_shard``; a video without ground truth has
no mask."""


def write(files: Files, params: dict[str, Any]) -> dict[str, Any]:
    """Decode ``source`` into ``shard`` and, where there is one, ``mask`` into ``mask_shard``; returns their facts."""
    extract = ExtractParams.model_validate(params)
    _require_bytes(Path(files["source"]), files["video_id"])
    clip = prepare(Path(files["source"]), extract, batch=schemas.ROWS_PER_GROUP)
    reasons = _write_frames(files, clip, extract.side_px)
    if files["mask"]:
        _require_bytes(Path(files["mask"]), files["mask_sha256"])
        _write_masks(files, clip.view, extract.side_px, frames=len(reasons))
    dropped = Counter(reason for reason in reasons if reason)
    return {
        "window": _window(clip),
        "frames": len(reasons),
        "kept": len(reasons) - dropped.total(),
        "reasons": dict(sorted(dropped.items())),
        "shape": geometry.shape(clip.view.stored(extract.side_px)),
    }


def _require_bytes(path: Path, sha256: str) -> None:
    """A video's name is the hash of its bytes: what is decoded must be what was taken in."""
    if clips.content_id(path) != sha256:
        raise VideoError(
            "changed", f"{path.suffix} file: its bytes are not those taken in.", "Restore it with `dvc checkout`."
        )


def _window(clip: Prepared) -> list[int] | None:
    return [clip.window.low, clip.window.high] if clip.window else None


def _write_frames(files: Files, clip: Prepared, side_px: int) -> list[str | None]:
    """Stream the clip into its shard; returns each frame's reason for being dropped, or None."""
    schema = schemas.frames(side_px, _window(clip))
    same = {"video_id": files["video_id"]} | clip.view.stored(side_px)
    reasons: list[str | None] = []
    with schemas.open_writer(Path(files["shard"]), schema) as writer:
        for batch in clip.batches:
            writer.write_table(_table(schema, same, batch))
            reasons += batch.reasons
    return reasons


def _table(schema: pa.Schema, same: dict[str, Any], batch: Batch) -> pa.Table:
    """A batch as Arrow columns; ``same`` is what all of its rows share."""
    columns: dict[str, Any] = {name: [getattr(figure, name) for figure in batch.figures] for name in FIGURES}
    columns |= {name: [value] * len(batch) for name, value in same.items()}
    columns |= {
        "frame_index": batch.frame_index,
        "pts_seconds": batch.pts_seconds,
        "image": pa.FixedShapeTensorArray.from_numpy_ndarray(batch.images_NSS),
        "keep": [reason is None for reason in batch.reasons],
        "reason": batch.reasons,
    }
    return _arrow(schema, columns)


def _write_masks(files: Files, view: fov.FieldOfView, side_px: int, *, frames: int) -> None:
    schema = schemas.masks(side_px)
    with tifffile.TiffFile(files["mask"]) as stack, schemas.open_writer(Path(files["mask_shard"]), schema) as writer:
        for pages in batched(enumerate(stack.pages), schemas.ROWS_PER_GROUP):
            masks = [fov.resample_mask(page.asarray() > 0, view, side_px).astype(np.uint8) for _, page in pages]
            columns = {
                "video_id": [files["video_id"]] * len(pages),
                "frame_index": [index for index, _ in pages],
                "mask": pa.FixedShapeTensorArray.from_numpy_ndarray(np.stack(masks)),
            }
            writer.write_table(_arrow(schema, columns))
        if len(stack.pages) != frames:
            raise VideoError(
                "mask_mismatch", f"The mask has {len(stack.pages)} pages for {frames} frames.", "Take it in anew."
            )


def _arrow(schema: pa.Schema, columns: dict[str, Any]) -> pa.Table:
    """Columns in the schema's order and types."""
    arrays = [
        columns[field.name] if isinstance(columns[field.name], pa.Array) else pa.array(columns[field.name], field.type)
        for field in schema
    ]
    return pa.Table.from_arrays(arrays, schema=schema)
