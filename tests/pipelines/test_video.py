"""Reading clips: frames and times as ffprobe sees them, exact grey levels, a typed error for each fault."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from av.video.reformatter import ColorRange
from clip_files import ffprobe_times
from numpy.typing import NDArray

from pipelines.errors import VideoError
from pipelines.video import clips

RATE_HZ = 8


def write_clip(
    path: Path,
    lumas_FHW: NDArray[np.uint8],
    *,
    color_range: ColorRange = ColorRange.MPEG,
    codec: str = "ffv1",
) -> Path:
    """Luma codes as given, as yuv420p; FFV1 keeps them exactly. The first time stamp is 3 frames late."""
    _, height_px, width_px = lumas_FHW.shape
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=RATE_HZ)
        stream.width, stream.height, stream.pix_fmt = width_px, height_px, "yuv420p"
        stream.codec_context.color_range = color_range
        for index, luma_HW in enumerate(lumas_FHW):
            planes = np.full((height_px * 3 // 2, width_px), 128, np.uint8)
            planes[:height_px] = luma_HW
            frame = av.VideoFrame.from_ndarray(planes, format="yuv420p")
            frame.color_range = color_range
            frame.pts, frame.time_base = index + 3, Fraction(1, RATE_HZ)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def noise(frames: int = 20, side_px: int = 64) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(16, 236, (frames, side_px, side_px)).astype(np.uint8)


def code_of(path: Path) -> str:
    with pytest.raises(VideoError) as caught:
        list(clips.read_frames(path))
    assert path.name not in str(caught.value), "an error must not repeat a file's name"
    assert str(path.parent) not in str(caught.value)
    return caught.value.code


@pytest.mark.parametrize("name", ["clip.mp4", "clip.mkv"])
def test_frames_and_times_are_those_of_ffprobe(tmp_path: Path, name: str) -> None:
    clip = write_clip(tmp_path / name, noise(), codec="libx264")
    frames = list(clips.read_frames(clip))
    assert [frame.index for frame in frames] == list(range(20))
    assert [frame.pts_seconds for frame in frames] == pytest.approx(ffprobe_times(clip), abs=1e-6)


def cut_without_encoding(path: Path, whole: Path, start: int) -> Path:
    """What `ffmpeg -ss -c copy` and QuickTime make: frames before ``start`` stay, and an edit list hides them."""
    with av.open(str(whole)) as source, av.open(str(path), "w", options={"movflags": "faststart"}) as container:
        stream = container.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None and packet.pts is not None and packet.time_base:
                shift = round((start + 3) / RATE_HZ / packet.time_base)  # the first frame is 3 late
                packet.dts, packet.pts, packet.stream = packet.dts - shift, packet.pts - shift, stream
                container.mux(packet)
    return path


@pytest.mark.parametrize("name", ["cut.mp4", "cut.mov"])
def test_frames_that_an_edit_list_hides_are_not_missed(tmp_path: Path, name: str) -> None:
    whole = write_clip(tmp_path / "whole.mp4", noise(), codec="libx264")
    cut = cut_without_encoding(tmp_path / name, whole, start=6)
    with av.open(str(cut)) as container:
        assert container.streams.video[0].frames == 20
    frames, uncut = list(clips.read_frames(cut)), list(clips.read_frames(whole))
    assert [frame.pts_seconds for frame in frames] == pytest.approx(ffprobe_times(cut), abs=1e-6)
    assert len(frames) == 14
    assert all(np.array_equal(ours.luma_HW, theirs.luma_HW) for ours, theirs in zip(frames, uncut[6:], strict=True))


def test_hidden_frames_do_not_make_up_for_lost_ones(tmp_path: Path) -> None:
    """The header comes first and promises all; the box of frames itself says that it ends where the file does."""
    whole = write_clip(tmp_path / "whole.mp4", noise(), codec="libx264")
    cut = cut_without_encoding(tmp_path / "cut.mp4", whole, start=6)
    with av.open(str(cut)) as container:
        positions = [packet.pos for packet in container.demux(video=0) if packet.size]
    content = bytearray(cut.read_bytes())
    box = content.index(b"mdat") - 4
    del content[positions[-3] :]
    content[box : box + 4] = (len(content) - box).to_bytes(4, "big")
    cut.write_bytes(content)
    assert code_of(cut) == "truncated"


def test_times_start_where_the_stream_starts(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "clip.mkv", noise(4))
    assert [frame.pts_seconds for frame in clips.read_frames(clip)] == [0.375, 0.5, 0.625, 0.75]


@pytest.mark.parametrize("color_range", [ColorRange.MPEG, ColorRange.UNSPECIFIED])
def test_limited_range_is_spread_exactly(tmp_path: Path, color_range: ColorRange) -> None:
    codes = np.arange(256, dtype=np.uint8).reshape(1, 16, 16)
    clip = write_clip(tmp_path / "clip.mkv", codes, color_range=color_range)
    expected = [min(255, max(0, round(Fraction((code - 16) * 255, 219)))) for code in range(256)]
    assert next(clips.read_frames(clip)).luma_HW.ravel().tolist() == expected


def test_full_range_is_left_alone(tmp_path: Path) -> None:
    codes = np.arange(256, dtype=np.uint8).reshape(1, 16, 16)
    clip = write_clip(tmp_path / "clip.mkv", codes, color_range=ColorRange.JPEG)
    assert next(clips.read_frames(clip)).luma_HW.ravel().tolist() == list(range(256))


def test_padding_at_the_end_of_lines_is_no_picture(tmp_path: Path) -> None:
    codes = noise(1, 64)[:, :, :50]
    luma_HW = next(clips.read_frames(write_clip(tmp_path / "clip.mkv", codes, color_range=ColorRange.JPEG))).luma_HW
    assert np.array_equal(luma_HW, codes[0])


@pytest.mark.parametrize(("rate", "taken"), [(b" F12:1", True), (b"", False), (b" F0:0", False)])
def test_a_raw_recording_that_does_not_say_its_rate_is_not_guessed_at(tmp_path: Path, rate: bytes, taken: bool) -> None:
    frame = b"FRAME\n" + bytes(16 * 16)
    (tmp_path / "clip.y4m").write_bytes(b"YUV4MPEG2 W16 H16" + rate + b" Ip A1:1 Cmono\n" + 2 * frame)
    if taken:
        assert [frame.pts_seconds for frame in clips.read_frames(tmp_path / "clip.y4m")] == [0, pytest.approx(1 / 12)]
        return
    with pytest.raises(VideoError) as raised:
        list(clips.read_frames(tmp_path / "clip.y4m"))
    assert raised.value.code == "impossible_rate"


def test_grey_stored_as_rgb_keeps_its_levels(tmp_path: Path) -> None:
    levels_HW = np.arange(256, dtype=np.uint8).reshape(16, 16)
    with av.open(str(tmp_path / "clip.mkv"), "w") as container:
        stream = container.add_stream("ffv1", rate=RATE_HZ)
        stream.width, stream.height, stream.pix_fmt = 16, 16, "bgr0"
        frame = av.VideoFrame.from_ndarray(np.repeat(levels_HW[..., None], 3, axis=2), format="rgb24")
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    assert np.array_equal(next(clips.read_frames(tmp_path / "clip.mkv")).luma_HW, levels_HW)


def test_reading_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "clip.mp4", noise(), codec="libx264")
    first, second = ([frame.luma_HW.tobytes() for frame in clips.read_frames(clip)] for _ in range(2))
    assert first == second


@pytest.mark.parametrize("content", [b"", bytes(range(256)) * 50])
def test_garbage_is_unreadable(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "Smith-John.mp4").write_bytes(content)
    assert code_of(tmp_path / "Smith-John.mp4") == "unreadable"


def test_sound_alone_is_no_video(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "sound.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=16_000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.rate, frame.pts = 16_000, 0
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    assert code_of(tmp_path / "sound.mp4") == "audio_only"


@pytest.mark.parametrize("name", ["clip.mp4", "clip.avi", "clip.mkv"])
def test_a_cut_file_is_truncated_whatever_its_container(tmp_path: Path, name: str) -> None:
    whole = write_clip(tmp_path / name, noise(), codec="libx264").read_bytes()
    (tmp_path / f"cut-{name}").write_bytes(whole[: len(whole) * 6 // 10])
    assert code_of(tmp_path / f"cut-{name}") == "truncated"


@pytest.mark.parametrize(
    "script",
    ["ffconcat version 1.0\nfile other.mkv\n", "#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\nother.mkv\n"],
)
def test_a_file_that_names_other_files_is_never_followed(tmp_path: Path, script: str) -> None:
    write_clip(tmp_path / "other.mkv", noise(4))
    (tmp_path / "clip.mp4").write_text(script)
    assert code_of(tmp_path / "clip.mp4") == "unreadable"
