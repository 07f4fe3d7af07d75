"""Is a file as long as its own boxes say? Decoders play what is left of a cut file; a stage must not."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Literal

BOX_BYTES = 282  # the longest box header of any format here, an Ogg page's

ASF_HEADER = bytes.fromhex("3026b2758e66cf11")
SMPTE_KEY = bytes.fromhex("060e2b34")

# Bytes that a box takes, header included, from its first BOX_BYTES; None where the box does not say.
BoxLength = Callable[[bytes], int | None]


def is_cut_short(path: Path) -> bool:
    """True when a top-level box of an MP4, MOV, AVI, MKV, WebM, WMV, FLV, MXF or Ogg file ends behind the file."""
    size, position = path.stat().st_size, 0
    with path.open("rb") as file:
        box_length = _box_length(file.read(BOX_BYTES))
        while box_length is not None and position < size:
            file.seek(position)
            length = box_length(file.read(BOX_BYTES))
            if length is None:
                return False
            position += length
    return box_length is not None and position > size


def says_no_rate(path: Path) -> bool:
    """True for a YUV4MPEG2 file whose header has no F field, or F0:0: FFmpeg would make 25 frames a second of it."""
    with path.open("rb") as file:
        fields = file.read(256).partition(b"\n")[0].split(b" ")
    rates = [field for field in fields[1:] if field.startswith(b"F")]
    return fields[0] == b"YUV4MPEG2" and rates in ([], [b"F0:0"])


def tiff_is_cut_short(path: Path) -> bool:
    """True when a page of the chain, or its pointer to the next, lies behind the end of the file.

    TIFF 6.0 and BigTIFF: a page is a count of entries, the entries, and the place of the next page or 0.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(16)
        order: Literal["little", "big"] = "little" if head[:2] == b"II" else "big"
        big = int.from_bytes(head[2:4], order) == 43
        count_bytes, entry_bytes, place_bytes = (8, 20, 8) if big else (2, 12, 4)
        place = int.from_bytes(head[8:16] if big else head[4:8], order)
        seen: set[int] = set()
        while place and place not in seen:
            seen.add(place)
            file.seek(place)
            entries = int.from_bytes(file.read(count_bytes), order)
            end = place + count_bytes + entries * entry_bytes + place_bytes
            if end > size:
                return True
            file.seek(end - place_bytes)
            place = int.from_bytes(file.read(place_bytes), order)
    return False


def _box_length(head: bytes) -> BoxLength | None:
    if head[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip"):
        return _iso_box
    if head[:4] == b"RIFF":
        return _riff_chunk
    if head[:4] == b"\x1a\x45\xdf\xa3":
        return _ebml_element
    if head[:8] == ASF_HEADER:
        return _asf_object
    if head[:3] == b"FLV":
        return _flv_tag
    if head[:4] == SMPTE_KEY:
        return _mxf_triplet
    if head[:4] == b"OggS":
        return _ogg_page
    return None


def _iso_box(head: bytes) -> int | None:
    """ISO/IEC 14496-12: 32-bit size, type; 1: 64 bits of size follow, 0: the rest of the file."""
    if len(head) < 8:
        return BOX_BYTES  # too short for a header: cut
    length = int.from_bytes(head[:4], "big")
    if length == 1 and len(head) >= 16:
        length = int.from_bytes(head[8:16], "big")
    return length if length >= 8 else None


def _riff_chunk(head: bytes) -> int | None:
    """Four letters, 32-bit little-endian size of what follows, padded to even. Recorders may leave 0."""
    if len(head) < 8:
        return None  # padding behind the last chunk
    length: int = struct.unpack("<I", head[4:8])[0]
    return 8 + length + length % 2 if length not in (0, 0xFFFFFFFF) else None


def _ebml_element(head: bytes) -> int | None:
    """RFC 8794: id and size are numbers whose leading zero bits tell their length; all ones: unknown."""
    if not head or head[0] == 0:
        return None
    id_bytes = 9 - head[0].bit_length()
    if len(head) <= id_bytes or head[id_bytes] == 0:
        return None
    size_bytes = 9 - head[id_bytes].bit_length()
    field = int.from_bytes(head[id_bytes : id_bytes + size_bytes], "big")
    unknown = (1 << 7 * size_bytes) - 1
    length = field & unknown
    return None if length == unknown else id_bytes + size_bytes + length


def _asf_object(head: bytes) -> int | None:
    """GUID, 64-bit little-endian size of the whole object; what is too short for one is padding."""
    if len(head) < 24:
        return None
    length = int.from_bytes(head[16:24], "little")
    return length if length >= 24 else None


def _flv_tag(head: bytes) -> int | None:
    """The file's header or a tag of type 8, 9 or 18 with 24 bits of size; 4 bytes follow either."""
    if len(head) < 11:
        return BOX_BYTES
    if head[:3] == b"FLV":
        return int.from_bytes(head[5:9], "big") + 4
    return 11 + int.from_bytes(head[1:4], "big") + 4 if head[0] & 0x1F in (8, 9, 18) else None


def _mxf_triplet(head: bytes) -> int | None:
    """SMPTE 336: a key of 16 bytes, a length of 1 byte or of as many as that byte says, the value."""
    if head[:4] != SMPTE_KEY[: len(head)]:
        return None
    if len(head) < 17:
        return BOX_BYTES
    more = head[16] - 0x80 if head[16] > 0x80 else 0
    length = int.from_bytes(head[17 : 17 + more], "big") if more else head[16]
    return 17 + more + length if more <= 8 else None


def _ogg_page(head: bytes) -> int | None:
    """RFC 3533: 27 bytes, the last of which counts the segments whose sizes follow."""
    if head[:4] != b"OggS"[: len(head)]:
        return None
    if len(head) < 27 + (head[26] if len(head) > 26 else 0):
        return BOX_BYTES
    return 27 + head[26] + sum(head[27 : 27 + head[26]])
