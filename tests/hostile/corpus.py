"""The corpus: every input with the fates that are right for it.

A fate is ``taken``, a quarantine reason, or the code of a row error. Where several stand, the decoder may find
any of them first; ``taken`` among them means that the input may be whole after all, and is then compared with
what ffmpeg decodes. The same seed gives the same corpus.
"""

from __future__ import annotations

import gzip
import io
import os
import random
import socket
import struct
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import tifffile

from hostile import boxes, clips

BROKEN = frozenset(
    {"truncated", "unreadable", "no_video_stream", "no_frames", "too_few_frames", "decoder_failed", "damaged"}
)
DAMAGED = BROKEN | {"size_changed", "impossible_rate", "over_pixels", "over_minutes", "over_frames", "taken"}
FLIPS = 20
"""For each of the five containers."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """One row of the batch."""

    name: str
    family: str
    fates: frozenset[str]
    content: bytes | Callable[[Path], object] | None = None  # None: no file is made
    path: str = ""  # as the row says; by default the name with .mp4
    cells: dict[str, str] = field(default_factory=dict)
    mask: bytes | Callable[[Path], object] | None = None

    @property
    def row(self) -> dict[str, str]:
        mask = "" if self.mask is None else f"{self.name}.tif"
        return {"path": self.path, "patient_id": "P", "label": "glioma", "mask": mask} | self.cells


def everything(workshop: Path, canary: Path, port: int, seed: int = 0) -> list[Case]:
    """All cases. ``workshop`` is scratch space; nothing may read ``canary`` or connect to ``port``."""
    whole = {kind: clips.write(workshop / f"whole.{kind}") for kind in clips.CONTAINERS}
    families = (
        _cut(whole),
        _flipped(whole, seed),
        _bombs(workshop, whole),
        _too_little(workshop),
        _pointers(canary, port),
        _disguises(whole["mp4"]),
        _names(),
        _kinds(canary),
        _rows(),
        _masks(workshop),
        _good(workshop),
    )
    cases = [case for family in families for case in family]
    random.Random(seed).shuffle(cases)  # good ones stand between bad ones
    return cases


def _case(
    family: str, name: str, content: bytes | Callable[[Path], object] | None, *fates: str, **more: object
) -> Case:
    more.setdefault("path", f"{name}.mp4")
    return Case(name=name, family=family, fates=frozenset(fates), content=content, **more)  # type: ignore[arg-type]


# --- broken bytes ----------------------------------------------------------------------------------


def _cut(whole: dict[str, bytes]) -> Iterator[Case]:
    """At every box, and in the middle of the last one."""
    for kind, data in whole.items():
        for offset in boxes.boundaries(data):
            yield _case(
                "cut at a box", f"cut-{kind}-{offset}", data[:offset], *BROKEN, path=f"cut-{kind}-{offset}.{kind}"
            )
        yield _case("cut at a box", f"cut-{kind}-last", data[:-3], *BROKEN, path=f"cut-{kind}-last.{kind}")


def _flipped(whole: dict[str, bytes], seed: int) -> Iterator[Case]:
    for kind, data in whole.items():
        draw = random.Random(f"{seed}-{kind}")
        for number in range(FLIPS):
            changed = bytearray(data)
            for _ in range(1 + number % 3):
                changed[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
            name = f"flip-{kind}-{number}"
            yield _case("bits flipped", name, bytes(changed), *DAMAGED, "over_memory", path=f"{name}.{kind}")


# --- too much, too little --------------------------------------------------------------------------


def _bombs(workshop: Path, whole: dict[str, bytes]) -> Iterator[Case]:
    family = "too much"
    huge = {"over_pixels", "over_memory", *BROKEN}
    for width, height in ((65535, 65535), (100_000, 1), (1, 100_000), (4097, 4097), (2**31 - 1, 2**31 - 1)):
        yield _case(family, f"y4m-{width}x{height}", clips.y4m(width, height, 2, body=b"0" * 64), *huge)
    yield _case(family, "mp4-size", _patched(whole["mp4"], b"avc1", 28, b"\xff\xff\xff\xff"), *huge, "taken")
    yield _case(
        family,
        "jpeg-size",
        _every(whole["avi"], b"\xff\xc0\x00\x11\x08", b"\xff\xdc\xff\xdc"),
        *huge,
        path="jpeg-size.avi",
    )
    yield _case(family, "png-zeros", _still_bomb(workshop), *huge, path="png-zeros.mov")
    yield _case(family, "many-frames", clips.y4m(16, 16, 5000), "over_frames")
    yield _case(family, "many-bytes", lambda path: path.open("wb").truncate(40_000_000), "over_bytes")
    yield _case(family, "many-minutes", clips.y4m(16, 16, 20, "1:3600"), "over_minutes", "impossible_rate")
    for number, rate in enumerate(
        ("0:0", "0:1", "1:0", "4294967295:1")
    ):  # FFmpeg takes 25 for a rate that says nothing
        yield _case(family, f"rate-none-{number}", clips.y4m(16, 16, 4, rate), "taken", "impossible_rate")
    for number, rate in enumerate(("1000000000:1", "1:1000000")):
        yield _case(family, f"rate-{number}", clips.y4m(16, 16, 4, rate), "impossible_rate", "over_minutes")
    for levels in (1, 3):
        bomb = bytes(20_000_000)
        for _ in range(levels):
            bomb = gzip.compress(bomb, mtime=0)
        yield _case(family, f"gzip-{levels}", bomb, *BROKEN)
    yield _case(family, "tiff-zeros", _tiff_bomb, *huge, path="tiff-zeros.tif")
    yield _case(family, "tiff-loop", _tiff_loop(), *BROKEN, "over_frames", path="tiff-loop.tif")
    yield _case(
        family,
        "tiff-claims",
        struct.pack("<2sHIHHHIIHHIIIH", b"II", 42, 8, 2, 256, 4, 1, 2**31, 257, 4, 1, 2**31, 0, 0),
        *huge,
    )
    yield _case(
        family, "dicom-claims", b"\0" * 128 + b"DICM" + _dicom_claims(), *huge, "over_frames", path="claims.dcm"
    )
    yield _case(
        family,
        "mkt-claims",
        struct.pack(">5xfxi2x", 8.0, 2**31 - 2) + bytes(200),
        *huge,
        "no_geometry",
        path="claims.mkt",
    )
    yield _case(
        family, "mkt-negative", struct.pack(">5xfxi2x", 8.0, -4) + bytes(200), *huge, "no_geometry", path="negative.mkt"
    )
    yield _case(
        family, "ebml-endless", b"\x1a\x45\xdf\xa3" + b"\x01" + b"\xff" * 7 + b"\x1a\x45\xdf\xa3\x80" * 5000, *BROKEN
    )
    yield _case(family, "iso-nested", _nested(2000), *BROKEN)
    yield _case(family, "iso-claims", _patched(whole["mp4"], b"stsz", 12, b"\xff\xff\xff\xff"), *DAMAGED, "over_memory")
    yield _case(family, "iso-runs", _patched(whole["mp4"], b"stts", 12, b"\xff\xff\xff\xff"), *DAMAGED, "over_memory")


def _patched(data: bytes, after: bytes, distance: int, patch: bytes) -> bytes:
    """``patch`` written at a distance behind the first place of a box's name."""
    at = data.index(after) + distance
    return data[:at] + patch + data[at + len(patch) :]


def _every(data: bytes, after: bytes, patch: bytes) -> bytes:
    parts = data.split(after)
    return after.join([parts[0], *(patch + part[len(patch) :] for part in parts[1:])])


def _still_bomb(workshop: Path) -> bytes:
    """Two black PNG frames of 25 million pixels in a few kilobytes."""
    import av

    with av.open(str(workshop / "bomb.mov"), "w") as container:
        stream = container.add_stream("png", rate=8)
        stream.width = stream.height = 5000
        stream.pix_fmt = "gray"
        for index in range(2):
            frame = av.VideoFrame.from_ndarray(np.zeros((5000, 5000), np.uint8), format="gray")
            frame.pts = index
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return (workshop / "bomb.mov").read_bytes()


def _tiff_bomb(path: Path) -> None:
    tifffile.imwrite(path, np.zeros((3, 6000, 6000), np.uint8), compression="zlib", photometric="minisblack")


def _tiff_loop() -> bytes:
    """Each page says that the first is the next."""
    entries = [
        (256, 3, 1, 1),
        (257, 3, 1, 1),
        (258, 3, 1, 8),
        (262, 3, 1, 1),
        (273, 4, 1, 8),
        (278, 3, 1, 1),
        (279, 4, 1, 1),
    ]
    page = struct.pack("<H", len(entries)) + b"".join(struct.pack("<HHII", *entry) for entry in entries)
    return struct.pack("<2sHI", b"II", 42, 8) + page + struct.pack("<I", 8)


def _dicom_claims() -> bytes:
    """A header of 65535 x 65535 pixels and two milliard frames, and no pixel."""

    def element(group: int, number: int, kind: bytes, value: bytes) -> bytes:
        return struct.pack("<HH2sH", group, number, kind, len(value)) + value

    syntax = element(2, 0x10, b"UI", b"1.2.840.10008.1.2.1\0")
    header = element(2, 0, b"UL", struct.pack("<I", len(syntax))) + syntax
    picture = element(0x28, 2, b"US", struct.pack("<H", 1)) + element(0x28, 4, b"CS", b"MONOCHROME2 ")
    picture += element(0x28, 8, b"IS", b"2000000000") + element(0x28, 0x10, b"US", b"\xff\xff")
    picture += element(0x28, 0x11, b"US", b"\xff\xff") + element(0x28, 0x100, b"US", struct.pack("<H", 8))
    return header + picture


def _nested(depth: int) -> bytes:
    box = b""
    for _ in range(depth):
        box = struct.pack(">I4s", len(box) + 8, b"moov") + box
    return struct.pack(">I4s4sI4s", 20, b"ftyp", b"isom", 0, b"isom") + box


def _too_little(workshop: Path) -> Iterator[Case]:
    family = "too little"
    for suffix, codec in (
        ("mp4", "aac"),
        ("mkv", "pcm_s16le"),
        ("avi", "pcm_s16le"),
        ("mov", "aac"),
        ("wav", "pcm_s16le"),
        ("mp3", "libmp3lame"),
    ):
        content = clips.write_sound(workshop / f"sound.{suffix}", codec)
        yield _case(
            family,
            f"sound-{suffix}",
            content,
            "unreadable" if suffix in ("wav", "mp3") else "audio_only",  # those two are no containers of video
            path=f"sound.{suffix}",
        )
    for frames in (0, 1):
        for suffix in ("mp4", "mkv", "avi"):
            name = f"frames-{frames}-{suffix}"
            content = clips.write(workshop / f"{name}.{suffix}", frames=frames)
            yield _case(family, name, content, *({"too_few_frames"} if frames else BROKEN), path=f"{name}.{suffix}")
    yield _case(family, "one-of-y4m", clips.y4m(16, 16, 1), "too_few_frames")
    yield _case(family, "none-of-y4m", clips.y4m(16, 16, 0), *BROKEN)
    yield _case(family, "sizes", _two_sizes(workshop), "size_changed", path="sizes.h264")
    for length in (0, 1, 7, 16, 100):
        yield _case(family, f"bytes-{length}", bytes(range(length)), *BROKEN)


def _two_sizes(workshop: Path) -> bytes:
    import av

    streams = b""
    for side in (64, 96):
        path = workshop / f"{side}.h264"
        with av.open(str(path), "w") as container:
            stream = container.add_stream("libx264", rate=8)
            stream.width = stream.height = side
            stream.pix_fmt = "yuv420p"
            for index in range(4):
                frame = av.VideoFrame.from_ndarray(clips.picture(index, side), format="gray").reformat(format="yuv420p")
                frame.pts = index
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
        streams += path.read_bytes()
    return streams


# --- files that point elsewhere, or are something else ----------------------------------------------


def _pointers(canary: Path, port: int) -> Iterator[Case]:
    """Playlists and scripts that would make a player open another file or address."""
    web = f"http://127.0.0.1:{port}/clip.mp4"
    scripts = {
        "ffconcat": f"ffconcat version 1.0\nfile '{canary}'\n",
        "ffconcat-web": f"ffconcat version 1.0\nfile {web}\n",
        "m3u8": _segments(f"file://{canary}"),
        "m3u8-web": _segments(web),
        "m3u8-data": _segments("data:video/mp4;base64,AAAA"),
        "m3u8-subfile": _segments(f"subfile,,start,0,end,999,,:{canary}"),
        "m3u8-concat": _segments(f"concat:{canary}|{web}"),
        "mpd": "<?xml version='1.0'?><MPD xmlns='urn:mpeg:dash:schema:mpd:2011' type='static'><Period><AdaptationSet>"
        f"<Representation id='1'><BaseURL>{web}</BaseURL></Representation></AdaptationSet></Period></MPD>",
        "sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\n"
        f"m=video {port} RTP/AVP 96\na=rtpmap:96 H264/90000\n",
        "pls": f"[playlist]\nFile1={canary}\nNumberOfEntries=1\n",
        "asx": f"<asx version='3.0'><entry><ref href='{web}'/></entry></asx>",
        "xspf": f"<playlist version='1'><trackList><track><location>{web}</location></track></trackList></playlist>",
        "smil": f"<smil><body><video src='{web}'/></body></smil>",
        "svg": f"<svg xmlns='http://www.w3.org/2000/svg'><image href='{web}'/></svg>",
        "xxe": f"<?xml version='1.0'?><!DOCTYPE a [<!ENTITY b SYSTEM 'file://{canary}'>]><a>&b;</a>",
        "imf": f"<CompositionPlaylist xmlns='http://www.smpte-ra.org/schemas/2067-3/2016'><Id>{web}</Id></CompositionPlaylist>",
        "avs": f'DirectShowSource("{canary}")\n',
        "rtsp": f"rtsptext\nrtsp://127.0.0.1:{port}/\n",
        "ffmetadata": ";FFMETADATA1\ntitle=x\n",
        "lavfi": f"movie={canary}",
    }
    for name, text in scripts.items():
        for suffix in ("mp4", name.split("-")[0]):
            yield _case("points elsewhere", f"{name}-as-{suffix}", text.encode(), *BROKEN, path=f"{name}.{suffix}")


def _segments(address: str) -> str:
    return f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{address}\n#EXT-X-ENDLIST\n"


def _disguises(mp4: bytes) -> Iterator[Case]:
    """Other things under a video's name; a video with something behind it is still that video."""
    family = "something else"
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as bundle:
        bundle.writestr("../../escaped.mp4", mp4)
    tape = io.BytesIO()
    with tarfile.open(fileobj=tape, mode="w") as bundle:
        bundle.addfile(tarfile.TarInfo("/etc/escaped"))
    things = {
        "zip": archive.getvalue(),
        "tar": tape.getvalue(),
        "elf": b"\x7fELF\x02\x01\x01" + bytes(200),
        "script": b"#!/bin/sh\ntouch escaped\n",
        "html": b"<html><script>alert(1)</script></html>",
        "pdf": b"%PDF-1.7\n1 0 obj <</Type /Catalog>> endobj\n",
        "pickle": b"cposix\nsystem\n(S'touch escaped'\ntR.",
        "jpeg": bytes.fromhex("ffd8ffe000104a46494600010100000100010000") + bytes(64),
        "png": b"\x89PNG\r\n\x1a\n" + bytes(64),
        "gif": b"GIF89a\x40\x00\x40\x00\x80\x00\x00" + bytes(64) + b";",
        "ftyp-only": struct.pack(">I4s4sI4s", 20, b"ftyp", b"isom", 0, b"isom"),
        "ebml-only": b"\x1a\x45\xdf\xa3\x80",
        "riff-only": b"RIFF\x04\x00\x00\x00AVI ",
        "dicom-empty": bytes(128) + b"DICM",
        "tiff-empty": b"II\x2a\x00\x08\x00\x00\x00\x00\x00",
        "bigtiff-empty": b"II\x2b\x00\x08\x00\x00\x00\x10\x00\x00\x00\x00\x00\x00\x00",
        "text": b"patient_id,name\n1,Doe\n",
        "noise": random.Random(5).randbytes(5000),
        "zeros": bytes(5000),
        "ones": b"\xff" * 5000,
    }
    for name, content in things.items():
        yield _case(family, f"is-{name}", content, *BROKEN, "no_pixels")
    yield _case(family, "before-script", b"#!/bin/sh\nexit\n" + mp4, *BROKEN)
    yield _case(family, "before-zip", archive.getvalue() + mp4, *BROKEN)
    yield _case(family, "behind-zip", mp4 + archive.getvalue(), *BROKEN, "taken")
    yield _case(family, "behind-free", mp4 + struct.pack(">I4s8s", 16, b"free", b"payload!"), "taken")
    yield _case(family, "other-suffix", mp4 + struct.pack(">I4s", 8, b"free"), "taken", path="other-suffix.exe")
    yield _case(
        family, "long-suffix", mp4 + struct.pack(">I4s4s", 12, b"free", b"long"), "taken", path="a." + "x" * 240
    )
    yield _case(family, "dvc-suffix", mp4 + struct.pack(">I4s4s", 12, b"free", b"dvc."), "taken", path="clip.dvc")


# --- names, kinds of files, rows, masks -------------------------------------------------------------


def _names() -> Iterator[Case]:
    names = {
        "name_escapes": (
            "../canary.mp4",
            "a/../../canary.mp4",
            "..",
            "a/..",
            "..\\canary.mp4",
            "~/canary.mp4",
            "~root/x.mp4",
        ),
        "name_absolute": ("/etc/passwd", "//etc/passwd", "/", "C:\\Windows\\win.ini", "c:/x.mp4"),
        "name_control": (
            "a\x00.mp4",
            "a\nb.mp4",
            "a\rb.mp4",
            "a\tb.mp4",
            "\x1b]0;x\x07.mp4",
            "a\x7f.mp4",
            "a\u2028b.mp4",
            "a\x85b.mp4",
        ),
        "name_hidden": (
            "a\u202e4pm.exe",
            "a\u200b.mp4",
            "\ufeffa.mp4",
            "a\u2066b.mp4",
            "a\u00adb.mp4",
            "a\U000e0041.mp4",
        ),
        "name_option": ("-rf", "--help.mp4", "-", "a/-rf/b.mp4", "-o ProxyCommand=x.mp4"),
        "name_command": (
            "$(touch escaped).mp4",
            "`touch escaped`.mp4",
            "a;touch escaped.mp4",
            "a|b.mp4",
            "a>b.mp4",
            "*.mp4",
            "a?.mp4",
            '"a.mp4',
            "${HOME}.mp4",
            "a\\b.mp4",
        ),
        "name_formula": ("=cmd|' /C calc'!A0.mp4", "+1.mp4", "@SUM(A1).mp4", "=1+1.mp4"),
        "name_too_long": ("a" * 256, "a" * 300 + ".mp4", "é" * 130, "d/" * 2100 + "a.mp4"),
    }
    number = 0
    for code, paths in names.items():
        for path in paths:
            number += 1
            content = _named_file if _can_be_made(path) else None
            yield _case("bad name", f"name-{number}", content, code, path=path)


def _named_file(path: Path) -> None:
    path.write_bytes(b"stays where it is")


def _can_be_made(path: str) -> bool:
    return len(path.encode()) < 200 and not set(path) & {"/", "\0"} and path.strip() == path and path not in ("..", "-")


def _kinds(canary: Path) -> Iterator[Case]:
    family = "no plain file"
    yield _case(family, "link", lambda path: path.symlink_to(canary), "symlink")
    yield _case(family, "dead-link", lambda path: path.symlink_to("nowhere"), "symlink")
    yield _case(family, "self-link", lambda path: path.symlink_to(path.name), "symlink")
    yield _case(
        family,
        "linked-folder",
        lambda path: path.parent.symlink_to(canary.parent),
        "symlink",
        path=f"linked/{canary.name}",
    )
    yield _case(family, "proc", lambda path: path.symlink_to("/proc/self/environ"), "symlink")
    yield _case(family, "device", lambda path: path.symlink_to("/dev/zero"), "symlink")
    yield _case(family, "pipe", os.mkfifo, "fifo")
    yield _case(family, "socket", _socket, "socket")
    yield _case(family, "folder", lambda path: path.mkdir(), "folder", "no_rate", "no_frames")
    yield _case(family, "below-a-file", None, "path_missing", path="pipe-not/x.mp4")
    yield _case(family, "missing", None, "path_missing")


def _socket(path: Path) -> None:
    here = Path.cwd()
    os.chdir(path.parent)  # a socket's address holds 107 bytes
    try:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(path.name)
    finally:
        os.chdir(here)


def _rows() -> Iterator[Case]:
    cells = {
        "label_invalid": ({"label": "=1+1"}, {"label": ""}, {"label": "a\nb"}, {"label": "x" * 65}, {"label": "../x"}),
        "label_unknown": ({"label": "gliom"},),
        "domain_unknown": ({"domain": "mars"},),
        "split_unknown": ({"split": "dev"},),
        "site_unsafe": ({"site": "=HYPERLINK(1)"}, {"site": "a\x1b[2J"}, {"site": "x" * 65}, {"site": "-1"}),
        "consent_unsafe": ({"consent": "@SUM(1)"}, {"consent": "a\u202eb"}),
        "patient_id_unsafe": ({"patient_id": "a\u200bb"}, {"patient_id": "a\nb"}, {"patient_id": "x" * 257}),
        "patient_empty": ({"patient_id": " "},),
        "sha256_invalid": ({"sha256": "abc"},),
        "sha256_differs": ({"sha256": "0" * 64},),
        "path_empty": ({"path": ""},),
    }
    for code, rows in cells.items():
        for number, row in enumerate(rows):
            content = None if "path" in row else b"not looked at" + code.encode()
            yield _case("bad row", f"{code}-{number}", content, code, cells=row)


def _masks(workshop: Path) -> Iterator[Case]:
    def stack(*shape: int) -> bytes:
        target = io.BytesIO()
        tifffile.imwrite(target, np.ones(shape, np.uint8), photometric="minisblack")
        return target.getvalue()

    good = stack(clips.FRAMES, clips.SIDE_PX, clips.SIDE_PX)
    masks: dict[str, tuple[bytes | Callable[[Path], object], str]] = {
        "fits": (good, "taken"),
        "short": (stack(clips.FRAMES - 1, 64, 64), "mask_mismatch"),
        "small": (stack(clips.FRAMES, 32, 64), "mask_mismatch"),
        "cut": (good[:200], "mask_unreadable"),
        "empty": (b"", "mask_unreadable"),
        "noise": (random.Random(6).randbytes(999), "mask_unreadable"),
        "loop": (_tiff_loop(), "mask_mismatch"),
        "bomb": (_tiff_bomb, "mask_mismatch"),
        "link": (lambda path: path.symlink_to("/etc/passwd"), "symlink"),
    }
    for number, (name, (mask, fate)) in enumerate(masks.items()):
        content = clips.write(workshop / "masked.mp4", seed=100 + number)
        more = {"mask_unreadable"} if name in ("loop", "bomb") else set()
        yield _case("mask", f"mask-{name}", content, fate, *more, mask=mask)


def _good(workshop: Path) -> Iterator[Case]:
    for number in range(10):
        kind = list(clips.CONTAINERS)[number % len(clips.CONTAINERS)]
        content = clips.write(workshop / f"good.{kind}", seed=200 + number)
        yield _case("good", f"good-{number}", content, "taken", path=f"good/H&E {number} (Köln).{kind}")
