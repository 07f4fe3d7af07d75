"""Seeded inputs for the two readers of our own: ``.mkt`` recordings and incoming manifests.

``make fuzz`` feeds 100 000 to each. Whatever comes in, a reader answers or raises its own error, quotes no patient,
and lets no unsafe name through. A number names an input: the same number makes the same bytes.
"""

from __future__ import annotations

import contextlib
import io
import random
import struct
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import BinaryIO

import numpy as np

from pipelines import names
from pipelines.errors import VideoError, WrongUseError
from pipelines.intake import incoming
from pipelines.video import clips, mkt
from pipelines.video.frame import RawFrame

INPUTS = 100_000
PATIENT = "Erika-Mustermann"
CAPS = clips.Caps(pixels=1e6, frames=1000, minutes=60, bytes=1e6)
EDGES = (b"0", b"-1", b"999999", b"1e9", b"nan", b"", b"65536", b"4294967297", b"0.000001", b"0x10", "१२".encode())


# --- .mkt -------------------------------------------------------------------------------------------


def recording(draw: random.Random) -> tuple[bytes, np.ndarray]:
    """A good file and its levels (F, H, W)."""
    frames, height, width = draw.randint(1, 4), draw.randint(4, 24), draw.randint(4, 24)
    levels = np.frombuffer(draw.randbytes(2 * frames * height * width), "<i2").reshape(frames, height, width)
    header = bytearray(16)
    struct.pack_into(">f", header, 5, draw.choice((8.0, 9.5, 12.0)))
    struct.pack_into(">i", header, 10, 2 * height * width)
    gap = draw.randbytes(32)
    trailer = (
        f"allowed_egain_eoffset_pairs=1\nwidth={width}\nheight={height}\nframerate=9\nfovx=300\n"
        f"patient_id={PATIENT}\n<CEND>"
    )
    return bytes(header) + b"".join(frame.tobytes() + gap for frame in levels) + trailer.encode(), levels


def mutated(data: bytes, draw: random.Random) -> bytes:
    """One to four changes."""
    changed = bytearray(data)
    for _ in range(draw.randint(1, 4)):
        at = draw.randrange(len(changed) + 1)
        match draw.randrange(7):
            case 0 if at < len(changed):
                changed[at] ^= 1 << draw.randrange(8)
            case 1:
                del changed[at:]
            case 2:
                changed[at:at] = draw.randbytes(draw.randint(1, 40))
            case 3:
                changed[at : at + 40] = b""
            case 4:
                changed[at:at] = changed[at : at + draw.randint(1, 80)]
            case 5:
                field = draw.choice((b"width=", b"height=", b"framerate=", b"path,", b",", b"\n"))
                where = changed.find(field)
                if where >= 0:
                    changed[where + len(field) : where + len(field) + draw.randint(0, 3)] = draw.choice(EDGES)
            case _:
                width = min(draw.choice((1, 2, 4)), len(changed))
                start = draw.randrange(min(16, len(changed) - width) + 1) if changed else 0
                changed[start : start + width] = draw.choice((b"\0", b"\xff", b"\x7f", b"\x80")) * width
    return bytes(changed)


def read_recording(number: int, folder: Path) -> str:
    """What became of input ``number``: how many frames, or the error's code."""
    draw = random.Random(f"mkt-{number}")
    data, levels = recording(draw)
    whole = number % 100 == 0  # now and then a good one, which must come out as it went in
    path = folder / "clip.mkt"
    path.write_bytes(data if whole else mutated(data, draw))
    frames, failure = _read(path)
    assert mkt.recognises(path) == (failure is None or failure.code != "no_geometry")
    if failure is not None:
        assert not whole
        assert PATIENT not in str(failure)
        return failure.code
    assert all(frame.levels_HW.size <= CAPS.pixels for frame in frames)
    if whole:
        shown = np.stack([frame.levels_HW for frame in frames]).astype(np.int64)
        assert np.array_equal(shown - shown.min(), levels.astype(np.int64) - levels.min())
    return "read"


def _read(path: Path) -> tuple[list[RawFrame], VideoError | None]:
    try:
        return list(islice(mkt.read(path, CAPS), 100)), None
    except VideoError as error:
        return [], error


# --- manifests --------------------------------------------------------------------------------------

CELLS = (
    *("a.mp4", "b/c.mkv", "../a", "/etc/passwd", "-rf", "$(id)", "=1+1", "a\x00b", "a\nb", "\u202egpj", "x" * 300, ""),
    *(
        "glioma",
        "healthy",
        "in-vivo",
        "train",
        "f" * 64,
        PATIENT,
        '"',
        "'",
        ",",
        ";",
        "\t",
        "\ufeff",
        "ä",
        "\U0001f600",
    ),
)
FITTING = {
    "path": ("a.mp4", "b/c.mkv", "H&E 1.avi"),
    "patient_id": (PATIENT, "P 7"),
    "label": ("glioma", "healthy"),
    "domain": ("in-vivo", ""),
    "site": ("north", ""),
    "split": ("train", ""),
    "mask": ("a.tif", ""),
    "consent": ("C-1", ""),
    "sha256": ("f" * 64, ""),
}
ALLOWED = FITTING["label"]


class Text:
    """A source that holds nothing but a manifest."""

    name = "fuzz"

    def __init__(self, content: bytes) -> None:
        self.content = content

    @contextlib.contextmanager
    def open(self, path: str) -> Iterator[BinaryIO]:
        yield io.BytesIO(self.content)

    def state(self, path: str) -> list[str]:
        return []

    def names(self, path: str) -> list[str]:
        return []


def table(draw: random.Random) -> bytes:
    columns = ["path", "patient_id", "label", *draw.sample(incoming.OPTIONAL, draw.randint(0, 6))]
    delimiter = draw.choice(",,,;\t")
    lines = [delimiter.join(columns)]
    for _ in range(draw.randint(0, 6)):
        cells = [draw.choice(FITTING[name] if draw.random() < 0.9 else CELLS) for name in columns]
        quoted = draw.random() < 0.5
        lines.append(delimiter.join('"' + cell.replace('"', '""') + '"' if quoted else cell for cell in cells))
    return draw.choice(("\n", "\r\n", "\r")).join(lines).encode()


def read_manifest(number: int, folder: Path) -> str:
    draw = random.Random(f"manifest-{number}")
    data = table(draw)
    if number % 3:
        data = mutated(data, draw)
    try:
        found = incoming.read(Text(data), ALLOWED)
    except WrongUseError as error:
        return error.code
    rows = [video.row for video in found.rows]
    assert len(set(rows)) == len(rows)
    assert not set(rows) & ({error.row for error in found.errors} | {aside.row for aside in found.aside})
    for row in found.rows:
        parts = PurePosixPath(row.path).parts
        assert parts, row
        assert not PurePosixPath(row.path).is_absolute()
        assert ".." not in parts
        assert not names.hides_or_breaks(row.path + row.site + row.consent)
        assert row.label in ALLOWED
        assert PATIENT not in repr(row)
    assert all(PATIENT not in error.value for error in found.errors if error.column == "patient_id")
    return f"{len(found.rows)} rows" if found.rows else "no row"


READERS: dict[str, Callable[[int, Path], str]] = {".mkt": read_recording, "manifest": read_manifest}


def main() -> int:
    wrong = 0
    for name, read in READERS.items():
        fates: Counter[str] = Counter()
        start = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            for number in range(INPUTS):
                try:
                    fates[read(number, Path(folder))] += 1
                except Exception as error:
                    wrong += 1
                    print(f"{name} input {number}: {type(error).__name__}: {error}")
        print(f"{name}: {INPUTS} inputs in {time.perf_counter() - start:.0f} s, {wrong} wrong so far")
        print("  " + ", ".join(f"{fate} {count}" for fate, count in fates.most_common()))
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
