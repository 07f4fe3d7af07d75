"""What every script of the extraction race does with its frames: shrink by area, grey, one Parquet file a clip."""

import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import cache, partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from serve import Numbers

Read = Callable[[str], Iterator[np.ndarray]]
BATCH = 64


def to_parquet(read: Read, side_px: int, out: str, clip: str) -> int:
    """Frames of one clip, as ``read`` yields them (side, side), into a Parquet file; returns how many."""
    schema = pa.schema([("frame_index", pa.int32()), ("image", pa.fixed_shape_tensor(pa.uint8(), (side_px, side_px)))])
    count, batch = 0, []
    with pq.ParquetWriter(Path(out) / f"{Path(clip).stem}.parquet", schema, compression="zstd") as writer:
        for image in read(clip, side_px):
            batch.append(image)
            if len(batch) == BATCH:
                count += _write(writer, schema, count, batch)
                batch = []
        if batch:
            count += _write(writer, schema, count, batch)
    return count


def _write(writer: pq.ParquetWriter, schema: pa.Schema, first: int, batch: list[np.ndarray]) -> int:
    index = pa.array(range(first, first + len(batch)), pa.int32())
    images = pa.FixedShapeTensorArray.from_numpy_ndarray(np.ascontiguousarray(np.stack(batch)))
    writer.write_table(pa.Table.from_arrays([index, images], schema=schema))
    return len(batch)


def run_job(job: Callable[[int, str, str], int], clips: list[str], side_px: int, processes: int = 1) -> Numbers:
    """``job(side_px, out, clip)`` over all clips, in this process or in so many of its own."""
    out = tempfile.mkdtemp(prefix="peer-")
    work = partial(job, side_px, out)
    try:
        if processes > 1:
            list(_pool(processes).map(len, clips))  # started before the clock
        start = time.perf_counter()
        frames = sum(map(work, clips) if processes == 1 else _pool(processes).map(work, clips))
        seconds = time.perf_counter() - start
        size = sum(path.stat().st_size for path in Path(out).rglob("*") if path.is_file())
    finally:
        shutil.rmtree(out)
    return {"seconds": seconds, "frames_per_second": frames / seconds, "bytes_per_frame": size / frames}


@cache
def _pool(processes: int) -> ProcessPoolExecutor:
    return ProcessPoolExecutor(processes)
