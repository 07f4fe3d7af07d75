"""Where the boxes of MP4, Matroska and AVI files begin and end: the places to cut them at."""

from __future__ import annotations

from collections.abc import Iterator

ISO_PARENTS = {b"moov", b"trak", b"mdia", b"minf", b"stbl", b"dinf", b"edts", b"udta"}
EBML_PARENTS = {0x18538067, 0x1654AE6B, 0xAE, 0x1F43B675, 0xA0, 0x1C53BB6B, 0x114D9B74, 0x1549A966}


def boundaries(data: bytes) -> list[int]:
    """Offsets at which a box or its content begins, without 0 and without the end."""
    found = {b"RIFF": _riff, b"\x1a\x45\xdf\xa3": _ebml}.get(data[:4], _iso)(data, 0, len(data))
    return sorted({offset for offset in found if 0 < offset < len(data)})


def _iso(data: bytes, start: int, end: int) -> Iterator[int]:
    while start + 8 <= end:
        length = int.from_bytes(data[start : start + 4], "big") or end - start
        if length < 8:
            return
        yield from (start, start + 8)
        if data[start + 4 : start + 8] in ISO_PARENTS:
            yield from _iso(data, start + 8, start + length)
        start += length


def _riff(data: bytes, start: int, end: int) -> Iterator[int]:
    while start + 8 <= end:
        length = int.from_bytes(data[start + 4 : start + 8], "little")
        yield from (start, start + 8)
        if data[start : start + 4] in (b"RIFF", b"LIST"):
            yield from _riff(data, start + 12, min(start + 8 + length, end))
        start += 8 + length + length % 2


def _ebml(data: bytes, start: int, end: int) -> Iterator[int]:
    while start + 2 <= end and data[start]:
        id_bytes = 9 - data[start].bit_length()
        size_at = start + id_bytes
        size_bytes = 9 - data[size_at].bit_length()
        body = size_at + size_bytes
        length = int.from_bytes(data[size_at:body], "big") & ((1 << 7 * size_bytes) - 1)
        if length == (1 << 7 * size_bytes) - 1:
            length = end - body
        yield from (start, body)
        if int.from_bytes(data[start:size_at], "big") in EBML_PARENTS:
            yield from _ebml(data, body, min(body + length, end))
        start = body + length
