"""Arrow schemas of everything stored as Parquet, and the one way to write them: same rows, same bytes."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.files import atomic_path

ROWS_PER_GROUP = 64

REASONS = ("dark", "saturated", "flat", "blurred", "smeared", "duplicate")
"""Why a frame is stored but not kept."""


def frames(side_px: int, window: Sequence[int] | None = None) -> pa.Schema:
    """One row per decoded frame, in decoding order.

    ``image`` is grey, full range 0..255, zero outside the field of view. The field of view is the box
    x0..x1, y0..y1 (px of the stored image, half-open) and, where it is round, the disc of that centre and
    radius; ``fov_radius`` is null for a rectangular one. Quality figures are taken inside it. ``window`` are
    the levels of 16-bit material that became 0 and 255.
    """
    return pa.schema(
        [
            pa.field("video_id", pa.string(), nullable=False),
            pa.field("frame_index", pa.int32(), nullable=False),
            pa.field("pts_seconds", pa.float64(), nullable=False),
            pa.field("image", _picture(side_px), nullable=False),
            *(
                pa.field(name, pa.float32(), nullable=False)
                for name in ("fov_x0", "fov_y0", "fov_x1", "fov_y1", "fov_cx", "fov_cy")
            ),
            pa.field("fov_radius", pa.float32(), nullable=True),
            pa.field("mean", pa.float32(), nullable=False),  # grey levels
            pa.field("contrast", pa.float32(), nullable=False),  # 95th - 5th percentile, grey levels
            pa.field("saturated", pa.float32(), nullable=False),  # share of pixels >= 250
            pa.field("sharpness", pa.float32(), nullable=False),  # var(Laplacian) / var(image)
            pa.field("smear", pa.float32(), nullable=False),  # largest / smallest directional gradient energy
            pa.field("change", pa.float32(), nullable=True),  # from the last new frame, mean grey levels; first: null
            pa.field("keep", pa.bool_(), nullable=False),
            pa.field("reason", pa.string(), nullable=True),  # of REASONS, null when kept
        ],
        metadata={"schema": "frames/1", "side_px": str(side_px), "window": json.dumps(window)},
    )


def masks(side_px: int) -> pa.Schema:
    """Ground truth in the geometry of the stored frames: ``mask`` is 0 or 1."""
    return pa.schema(
        [
            pa.field("video_id", pa.string(), nullable=False),
            pa.field("frame_index", pa.int32(), nullable=False),
            pa.field("mask", _picture(side_px), nullable=False),
        ],
        metadata={"schema": "masks/1", "side_px": str(side_px)},
    )


PREDICTIONS = pa.schema(
    [
        pa.field("video_id", pa.string(), nullable=False),
        pa.field("frame_index", pa.int32(), nullable=False),
        pa.field("split", pa.string(), nullable=False),
        pa.field("label", pa.string(), nullable=False),
        pa.field("predicted", pa.string(), nullable=False),
        pa.field("probabilities", pa.list_(pa.float32()), nullable=False),  # classes sorted by name
        pa.field("score", pa.float32(), nullable=False),  # cosine with the predicted class, -1..1
        pa.field("reject", pa.bool_(), nullable=False),
        pa.field("keep", pa.bool_(), nullable=False),
        pa.field("saliency_iou", pa.float32(), nullable=True),  # null without a ground-truth mask
        pa.field("pointing", pa.float32(), nullable=True),  # 1 when the map's peak lies in the mask
        pa.field("saliency_auc", pa.float32(), nullable=True),  # of pixels, null too where the mask is the whole view
        # Of the sampled frames only, see lclsc.faithfulness; null elsewhere.
        pa.field("deletion", pa.float32(), nullable=True),
        pa.field("insertion", pa.float32(), nullable=True),
        pa.field("average_drop", pa.float32(), nullable=True),
        pa.field("confidence_increase", pa.float32(), nullable=True),
    ],
    metadata={"schema": "predictions/2"},
)


IMAGE_FIGURES = ("mean", "contrast", "saturated", "sharpness", "smear", "grain")
"""Of a frame, inside its field of view; see ``frames``. Grain is the noise, in grey levels."""

SERVED = pa.schema(
    [
        pa.field("at", pa.timestamp("ms", tz="UTC"), nullable=False),
        pa.field("version", pa.string(), nullable=False),
        pa.field("site", pa.string(), nullable=True),
        pa.field("case", pa.string(), nullable=True),  # of one patient, as the client says: a keyed hash of its word
        pa.field("source", pa.string(), nullable=False),  # SHA-256 of what was sent: rows of one clip share it
        pa.field("kind", pa.string(), nullable=False),  # image | video
        pa.field("frame_index", pa.int32(), nullable=False),
        pa.field("fit", pa.bool_(), nullable=False),  # fit to be judged
        pa.field("predicted", pa.string(), nullable=False),
        pa.field("probabilities", pa.map_(pa.string(), pa.float32()), nullable=False),
        pa.field("distances", pa.map_(pa.string(), pa.float32()), nullable=False),  # 1 - cosine, to each class seen
        pa.field("score", pa.float32(), nullable=False),
        pa.field("reject", pa.bool_(), nullable=False),
        *(pa.field(name, pa.float32(), nullable=False) for name in IMAGE_FIGURES),
    ],
    metadata={"schema": "served/1"},
)


def write_table(path: Path, table: pa.Table) -> None:
    """Whole or absent, and the same bytes for the same rows (pyarrow's version aside)."""
    with open_writer(path, table.schema) as writer:
        writer.write_table(table, row_group_size=ROWS_PER_GROUP)


@contextmanager
def open_writer(path: Path, schema: pa.Schema) -> Iterator[pq.ParquetWriter]:
    """For rows that come in batches: the file appears when all of them are written."""
    options = {
        "compression": "zstd",
        "compression_level": 3,
        # Parquet has no 8-bit numbers: a pixel takes four bytes, three of them zero. Apart, they compress to nothing.
        "column_encoding": {f"{field.name}.list.element": "BYTE_STREAM_SPLIT" for field in _pictures(schema)},
        "use_dictionary": False,
        "write_statistics": False,
        "write_page_checksum": True,  # whoever reads a page finds a changed bit
    }
    with (
        atomic_path(path) as temporary,
        pq.ParquetWriter(temporary, schema, version="2.6", data_page_version="1.0", **options) as writer,
    ):
        yield writer


def _pictures(schema: pa.Schema) -> list[pa.Field]:
    return [field for field in schema if isinstance(field.type, pa.FixedShapeTensorType)]


def _picture(side_px: int) -> pa.DataType:
    return pa.fixed_shape_tensor(pa.uint8(), (side_px, side_px))
