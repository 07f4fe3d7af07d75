"""Every format: the frames and times that ffprobe, pydicom and tifffile see, from real files and from written ones."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path
from typing import Any

import clip_files
import imagecodecs
import numpy as np
import pydicom
import pytest
import tifffile
from clip_files import DICOM_IN_PYDICOM, dicom_data, ffprobe_times, filmed, pictures
from numpy.typing import NDArray
from pydicom.pixels.utils import iter_pixels

from pipelines.errors import VideoError
from pipelines.video import clips, dicom, tiff
from pipelines.video.caps import NO_CAPS, Caps

EMRI = [f"emri_small{kind}.dcm" for kind in ("", "_big_endian", "_RLE", "_jpeg_ls_lossless", "_jpeg_2k_lossless")]
JPEG, JPEG_LS, JPEG_2000, RLE = (f"1.2.840.10008.1.2.{last}" for last in ("4.50", "4.80", "4.90", "5"))
MPEG_2, H264, HEVC = (f"1.2.840.10008.1.2.4.{last}" for last in (100, 102, 107))


def raw(path: Path) -> NDArray[Any]:
    """Levels as the reader gives them, (F, H, W), before any window."""
    reader = clips.FORMATS[clips.sniff(path)]
    return np.stack([frame.levels_HW for frame in reader.read(path, NO_CAPS)])


def times(path: Path) -> list[float]:
    return [frame.pts_seconds for frame in clips.read_frames(path)]


def code_of(path: Path, caps: Caps = NO_CAPS) -> str:
    with pytest.raises(VideoError) as caught:
        list(clips.read_frames(path, caps=caps))
    assert "mith" not in str(caught.value).lower(), "an error must not quote a file's header"
    return caught.value.code


# --- containers -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["carphone_pristine.mp4", "carphone_distorted.mp4", "bikes.mp4"])
def test_real_clips_have_the_frames_and_times_of_ffprobe(name: str) -> None:
    assert times(filmed(name)) == pytest.approx(ffprobe_times(filmed(name)), abs=1e-6)


@pytest.mark.parametrize(
    ("suffix", "codec", "pixels"),
    [
        (".mp4", "libx265", "yuv420p"),
        (".mov", "mpeg4", "yuv420p"),
        (".mov", "prores_ks", "yuv422p10le"),
        (".mkv", "ffv1", "yuv420p"),
        (".avi", "mjpeg", "yuvj420p"),
        (".webm", "libvpx-vp9", "yuv420p"),
        (".mpg", "mpeg2video", "yuv420p"),
        (".ts", "libx264", "yuv420p"),
        (".wmv", "wmv2", "yuv420p"),
        (".asf", "msmpeg4", "yuv420p"),
        (".flv", "flv", "yuv420p"),
        (".flv", "libx264", "yuv420p"),
        (".mxf", "mpeg2video", "yuv422p"),
        (".ogv", "libvpx", "yuv420p"),
        (".3gp", "mpeg4", "yuv420p"),
    ],
)
def test_every_container_has_the_frames_and_times_of_ffprobe(
    tmp_path: Path, suffix: str, codec: str, pixels: str
) -> None:
    clip = clip_files.video(tmp_path / f"clip{suffix}", codec, pictures(), pixels=pixels)
    pairs = list(zip(times(clip), ffprobe_times(clip), strict=True))
    assert len(pairs) == 6
    assert all(ours == pytest.approx(theirs, abs=1e-6) for ours, theirs in pairs if theirs is not None)


@pytest.mark.parametrize(
    ("suffix", "codec", "pixels"),
    [
        (".wmv", "wmv2", "yuv420p"),
        (".flv", "libx264", "yuv420p"),
        (".mxf", "mpeg2video", "yuv422p"),
        (".ogv", "libvpx", "yuv420p"),
    ],
)
def test_a_cut_container_is_truncated_wherever_it_is_cut(tmp_path: Path, suffix: str, codec: str, pixels: str) -> None:
    whole = clip_files.video(tmp_path / f"whole{suffix}", codec, pictures(), pixels=pixels).read_bytes()
    for share in (0.35, 0.6, 0.8, 0.97):
        cut = tmp_path / f"cut{suffix}"
        cut.write_bytes(whole[: int(share * len(whole))])
        assert code_of(cut) in ("truncated", "unreadable", "no_video_stream"), share
    cut.write_bytes(whole[:-1])
    assert code_of(cut) == "truncated"


def test_grey_video_of_16_bits_keeps_its_levels(tmp_path: Path) -> None:
    levels_FHW = pictures(kind=np.uint16) * np.uint16(257) + np.uint16(3)
    with clip_files.av.open(str(tmp_path / "clip.mkv"), "w") as container:
        stream = container.add_stream("ffv1", rate=8)
        stream.height, stream.width, stream.pix_fmt = *levels_FHW.shape[1:], "gray16le"
        for levels_HW in levels_FHW:
            container.mux(stream.encode(clip_files.av.VideoFrame.from_ndarray(levels_HW, format="gray16le")))
        container.mux(stream.encode(None))
    assert np.array_equal(raw(tmp_path / "clip.mkv"), levels_FHW)


# --- DICOM ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", EMRI)
def test_one_real_recording_in_five_codings_gives_the_levels_of_pydicom(name: str) -> None:
    reference = np.stack(list(iter_pixels(dicom_data("emri_small.dcm"))))
    assert reference.shape == (10, 64, 64)
    levels_FHW = raw(dicom_data(name))
    assert levels_FHW.dtype == np.uint16
    assert np.array_equal(levels_FHW, reference)


@pytest.mark.parametrize(
    ("path", "frames"),
    [(dicom_data("color3d_jpeg_baseline.dcm"), 120), (DICOM_IN_PYDICOM / "examples_ybr_color.dcm", 30)],
)
def test_real_ultrasound_gives_the_luma_and_times_of_pydicom(path: Path, frames: int) -> None:
    header = pydicom.dcmread(path, stop_before_pixels=True)
    assert int(header.NumberOfFrames) == frames
    assert times(path) == pytest.approx([index * float(header.FrameTime) / 1000 for index in range(frames)])
    for ours, theirs in zip(raw(path), iter_pixels(path, raw=True), strict=True):
        assert np.array_equal(ours, theirs[..., 0])


def test_every_real_dicom_file_is_read_as_pydicom_reads_it_or_refused() -> None:
    read, refused = 0, set()
    for path in sorted(DICOM_IN_PYDICOM.glob("*.dcm")):
        if clips.sniff(path) != "dicom":
            continue
        try:
            ours = next(dicom.read(path, NO_CAPS)).levels_HW
        except VideoError as error:
            refused.add(error.code)
            continue
        read += 1
        header = pydicom.dcmread(path)
        if header.PhotometricInterpretation == "MONOCHROME2" and header.BitsAllocated > 1:
            codes_without_reference = (JPEG_LS, "1.2.840.10008.1.2.4.81", "1.2.840.10008.1.2.4.51")
            if header.file_meta.TransferSyntaxUID not in codes_without_reference:
                assert np.array_equal(ours, header.pixel_array), path.name
    assert read >= 50
    assert refused == {"no_video_stream", "truncated", "unreadable", "unsupported_pixels", "unsupported_codec"}


@pytest.mark.parametrize(
    ("syntax", "suffix", "codec"),
    [(MPEG_2, ".mpg", "mpeg2video"), (H264, ".mp4", "libx264"), (H264, ".ts", "libx264"), (HEVC, ".mp4", "libx265")],
)
@pytest.mark.parametrize("fragments", [1, 3])
def test_video_inside_dicom_gives_the_frames_of_the_video(
    tmp_path: Path, syntax: str, suffix: str, codec: str, fragments: int
) -> None:
    plain = clip_files.video(tmp_path / f"clip{suffix}", codec, pictures())
    data = plain.read_bytes()
    data += b"\0" * (len(data) % 2)
    piece = -(-len(data) // fragments) // 2 * 2 + 2
    pieces = [data[start : start + piece] for start in range(0, len(data), piece)]
    assert len(pieces) == fragments
    wrapped = clip_files.dicom(tmp_path / "clip.dcm", pieces, frames=6, size_px=(48, 64), syntax=syntax)
    assert np.array_equal(raw(wrapped), raw(plain))
    assert times(wrapped) == times(plain)


def test_a_real_clip_inside_dicom_gives_the_frames_of_the_clip(tmp_path: Path) -> None:
    data = filmed("carphone_distorted.mp4").read_bytes()
    coded = [data + b"\0" * (len(data) % 2)]
    wrapped = clip_files.dicom(tmp_path / "clip.dcm", coded, frames=120, size_px=(144, 176), syntax=H264)
    assert times(wrapped) == pytest.approx(ffprobe_times(filmed("carphone_distorted.mp4")), abs=1e-6)


@pytest.mark.parametrize(
    ("syntax", "encode", "error"),
    [
        (JPEG, lambda picture: imagecodecs.jpeg8_encode(picture, level=100), 2),
        (JPEG_LS, imagecodecs.jpegls_encode, 0),
        (JPEG_2000, lambda picture: imagecodecs.jpeg2k_encode(picture, codecformat="j2k", reversible=True), 0),
    ],
)
def test_coded_grey_frames_give_their_levels(tmp_path: Path, syntax: str, encode: Any, error: int) -> None:
    coded = [bytes(encode(picture)) for picture in pictures()]
    clip = clip_files.dicom(tmp_path / "clip.dcm", coded, frames=6, size_px=(48, 64), syntax=syntax, FrameTime="125")
    assert np.abs(raw(clip).astype(int) - pictures()).max() <= error
    assert times(clip) == [0.0, 0.125, 0.25, 0.375, 0.5, 0.625]


def test_run_lengths_give_their_levels(tmp_path: Path) -> None:
    native = clip_files.dicom(tmp_path / "native.dcm", pictures().tobytes(), frames=6, size_px=(48, 64))
    coded = pydicom.dcmread(native)
    coded.compress(RLE, generate_instance_uid=False)
    coded.save_as(tmp_path / "clip.dcm")
    assert np.array_equal(raw(tmp_path / "clip.dcm"), pictures())


def test_white_may_be_zero(tmp_path: Path) -> None:
    native = pictures().tobytes()
    tags = {"PhotometricInterpretation": "MONOCHROME1"}
    clip = clip_files.dicom(tmp_path / "clip.dcm", native, frames=6, size_px=(48, 64), **tags)
    assert np.array_equal(raw(clip), 255 - pictures())


@pytest.mark.parametrize("kind", ["RGB", "YBR_FULL"])
def test_colour_becomes_luma(tmp_path: Path, kind: str) -> None:
    colour_FHWC = np.random.default_rng(0).integers(0, 256, (2, 48, 64, 3)).astype(np.uint8)
    tags = {"SamplesPerPixel": 3, "PhotometricInterpretation": kind}
    clip = clip_files.dicom(tmp_path / "clip.dcm", colour_FHWC.tobytes(), frames=2, size_px=(48, 64), **tags)
    luma = np.rint(colour_FHWC @ np.array([0.299, 0.587, 0.114])) if kind == "RGB" else colour_FHWC[..., 0]
    assert np.abs(raw(clip) - luma).max() <= (kind == "RGB")


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        ({"FrameTimeVector": ["0", "100", "50", "50", "100", "100"]}, [0, 0.1, 0.15, 0.2, 0.3, 0.4]),
        ({"CineRate": "10"}, [0, 0.1, 0.2, 0.3, 0.4, 0.5]),
        ({"RecommendedDisplayFrameRate": "20"}, [0, 0.05, 0.1, 0.15, 0.2, 0.25]),
        ({}, [0, 1, 2, 3, 4, 5]),
    ],
)
def test_dicom_times_come_from_any_of_four_elements(
    tmp_path: Path, tags: dict[str, Any], expected: list[float]
) -> None:
    clip = clip_files.dicom(tmp_path / "clip.dcm", pictures().tobytes(), frames=6, size_px=(48, 64), **tags)
    assert times(clip) == pytest.approx(expected)


# --- TIFF -----------------------------------------------------------------------------------------------


def test_a_real_recording_of_16_bits_gives_the_levels_of_tifffile(tmp_path: Path) -> None:
    path = clip_files.two_photon(tmp_path)
    with tifffile.TiffFile(path) as stack:
        reference = np.stack([page.asarray() for page in stack.pages])
    assert reference.shape == (20, 128, 256)
    assert reference.dtype == np.uint16
    assert np.array_equal(raw(path), reference)
    assert times(path) == list(range(20))
    clip = clips.open_clip(path)
    assert clip.window is not None
    assert (clip.window.low, clip.window.high) == pytest.approx(np.percentile(reference, [0.5, 99.5]), rel=0.2)


@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.int16])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"bigtiff": True, "byteorder": ">"},
        {"compression": "lzw"},
        {"compression": "zlib", "tile": (16, 16)},
        {"ome": True, "metadata": {"axes": "TYX"}},
        {"metadata": None, "photometric": "miniswhite"},
    ],
)
def test_tiff_stacks_give_the_levels_of_tifffile(tmp_path: Path, kind: Any, options: dict[str, Any]) -> None:
    tifffile.imwrite(tmp_path / "clip.tif", pictures(kind=kind), **options)
    levels_FHW = tifffile.imread(tmp_path / "clip.tif")
    expected = ~levels_FHW if "photometric" in options else levels_FHW
    assert raw(tmp_path / "clip.tif").dtype == kind
    assert np.array_equal(raw(tmp_path / "clip.tif"), expected)


@pytest.mark.parametrize(
    ("options", "seconds"),
    [
        ({"ome": True, "metadata": {"axes": "TYX", "TimeIncrement": 125.0, "TimeIncrementUnit": "ms"}}, 0.125),
        ({"imagej": True, "metadata": {"axes": "TYX", "finterval": 0.25}}, 0.25),
        ({"imagej": True, "metadata": {"axes": "TYX", "fps": 5.0}}, 0.2),
        ({}, 1.0),
    ],
)
def test_tiff_times_are_those_that_microscopes_write(tmp_path: Path, options: dict[str, Any], seconds: float) -> None:
    tifffile.imwrite(tmp_path / "clip.tif", pictures(kind=np.uint16), **options)
    assert times(tmp_path / "clip.tif") == pytest.approx([index * seconds for index in range(6)])


def test_an_imagej_stack_behind_one_header_is_read_whole(tmp_path: Path) -> None:
    levels_FHW = pictures(kind=np.uint16)
    described = "ImageJ=1.53t\nimages=6\nframes=6\nfinterval=0.5\n"
    tifffile.imwrite(tmp_path / "one.tif", levels_FHW[:1], byteorder=">", description=described, metadata=None)
    with tifffile.TiffFile(tmp_path / "one.tif") as stack:
        start = stack.pages[0].dataoffsets[0]
    head = (tmp_path / "one.tif").read_bytes()[:start]
    (tmp_path / "clip.tif").write_bytes(head + levels_FHW.astype(">u2").tobytes())
    assert np.array_equal(raw(tmp_path / "clip.tif"), levels_FHW)
    assert times(tmp_path / "clip.tif") == [0.0, 0.5, 1.0, 1.5, 2.0, 2.5]
    (tmp_path / "cut.tif").write_bytes(head + levels_FHW[:4].astype(">u2").tobytes())
    assert code_of(tmp_path / "cut.tif") in ("truncated", "unreadable")


def test_a_cut_stack_is_refused(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "clip.tif", pictures(), metadata=None)
    whole = (tmp_path / "clip.tif").read_bytes()
    (tmp_path / "cut.tif").write_bytes(whole[: len(whole) // 2])
    assert code_of(tmp_path / "cut.tif") in ("truncated", "unreadable")


def test_files_that_ome_metadata_names_are_never_opened(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "other.ome.tif", pictures(4), ome=True, metadata={"axes": "TYX"})
    with tifffile.TiffFile(tmp_path / "other.ome.tif") as other:
        text = other.ome_metadata.replace(
            '<TiffData IFD="0" PlaneCount="4"/>',
            '<TiffData IFD="0" FirstT="0" PlaneCount="2"><UUID FileName="other.ome.tif">urn:uuid:1</UUID></TiffData>',
        )
    tifffile.imwrite(tmp_path / "clip.tif", pictures(2), description=text, metadata=None)
    (tmp_path / "other.ome.tif").unlink()
    (tmp_path / "other.ome.tif").symlink_to(tmp_path / "trap")
    assert tiff.recognises(tmp_path / "clip.tif")
    with contextlib.suppress(VideoError):
        assert len(raw(tmp_path / "clip.tif")) <= 2


def test_several_channels_are_refused(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "clip.tif", np.zeros((3, 2, 16, 16), np.uint8), imagej=True, metadata={"axes": "TCYX"})
    assert code_of(tmp_path / "clip.tif") == "unsupported_pixels"


# --- folders of frames ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("suffix", "kind"), [(".png", np.uint8), (".png", np.uint16), (".tif", np.int16), (".jpg", np.uint8)]
)
def test_a_folder_of_frames_is_read_in_the_order_people_count(tmp_path: Path, suffix: str, kind: Any) -> None:
    clip = clip_files.frame_folder(tmp_path / "clip", pictures(12, kind=kind), suffix)
    error = 8 if suffix == ".jpg" else 0
    assert np.abs(raw(clip).astype(int) - pictures(12, kind=kind)).max() <= error
    assert times(clip) == pytest.approx([index / 8 for index in range(12)])


def test_a_folder_is_its_frames_in_order_with_their_rate(tmp_path: Path) -> None:
    first = clip_files.frame_folder(tmp_path / "first", pictures(3), ".png")
    renamed = tmp_path / "renamed"
    renamed.mkdir()
    for index in range(3):
        shutil.copy(first / f"frame {index + 1}.png", renamed / f"{index:06d}.png")
    (renamed / "rate.txt").write_text("8.0")
    assert clips.content_id(renamed) == clips.content_id(first)
    slower = clip_files.frame_folder(tmp_path / "slower", pictures(3), ".png", rate="4")
    backwards = clip_files.frame_folder(tmp_path / "backwards", pictures(3)[::-1], ".png")
    assert len({clips.content_id(clip) for clip in (first, slower, backwards)}) == 3


@pytest.mark.parametrize("rate", ["", "0", "-8", "fast", "nan", "1e400", "8\n9"])
def test_a_folder_without_a_rate_is_refused(tmp_path: Path, rate: str) -> None:
    assert code_of(clip_files.frame_folder(tmp_path / "clip", pictures(3), ".png", rate=rate)) == "no_rate"


def test_a_folder_with_something_else_in_it_is_refused(tmp_path: Path) -> None:
    clip = clip_files.frame_folder(tmp_path / "clip", pictures(3), ".png")
    (clip / "notes of Smith.txt").write_text("Smith")
    assert code_of(clip) == "unreadable"
    (clip / "notes of Smith.txt").unlink()
    (clip / "link.png").symlink_to(clip / "frame 1.png")
    assert code_of(clip) == "unreadable"


# --- Cellvizio ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"offsets": (4, 9)}, {"last_gap": False}])
def test_mkt_gives_its_levels_and_times(tmp_path: Path, options: dict[str, Any]) -> None:
    levels_FHW = pictures(kind=np.int16) * np.int16(30) - np.int16(400)
    clip = clip_files.mkt(tmp_path / "clip.mkt", levels_FHW, **options)
    assert clips.sniff(clip) == "mkt"
    assert np.array_equal(raw(clip), levels_FHW)
    assert times(clip) == pytest.approx([index / 9 for index in range(6)])


@pytest.mark.parametrize("size_px", [(336, 464), (274, 384), (576, 576), (512, 512)])
def test_mkt_without_a_trailer_is_read_at_a_known_size(tmp_path: Path, size_px: tuple[int, int]) -> None:
    levels_FHW = pictures(2, height_px=size_px[0], width_px=size_px[1], kind=np.int16)
    clip = clip_files.mkt(tmp_path / "clip.mkt", levels_FHW, trailer=False)
    assert np.array_equal(raw(clip), levels_FHW)


def test_mkt_that_ends_within_a_frame_is_truncated(tmp_path: Path) -> None:
    levels_FHW = pictures(3, height_px=274, width_px=384, kind=np.int16)
    clip = clip_files.mkt(tmp_path / "clip.mkt", levels_FHW, trailer=False)
    clip.write_bytes(clip.read_bytes()[:-5000])
    assert code_of(clip) == "truncated"


@pytest.mark.parametrize("lost", [1, 100, 3000, 6144 + 32 - 1])
def test_mkt_that_lost_bytes_among_its_frames_is_damaged(tmp_path: Path, lost: int) -> None:
    """Every frame behind the gap would be shifted: a picture, but not the one that was filmed."""
    levels_FHW = np.random.default_rng(0).integers(-400, 8191, (6, 48, 64)).astype(np.int16)
    clip = clip_files.mkt(tmp_path / "clip.mkt", levels_FHW)
    whole = clip.read_bytes()
    clip.write_bytes(whole[:9000] + whole[9000 + lost :])
    assert clips.sniff(clip) == "mkt"
    assert code_of(clip) == "damaged"


def test_mkt_may_have_other_lines_before_those_that_are_read(tmp_path: Path) -> None:
    levels_FHW = pictures(kind=np.int16)
    clip = clip_files.mkt(tmp_path / "clip.mkt", levels_FHW)
    clip.write_bytes(clip.read_bytes().replace(b"allowed_egain", b"<CSTART\r\nserial=7\nallowed_egain"))
    assert np.array_equal(raw(clip), levels_FHW)


def test_broken_mkt_ends_in_an_error_of_ours(tmp_path: Path) -> None:
    whole = clip_files.mkt(tmp_path / "whole.mkt", pictures(3, kind=np.int16)).read_bytes()
    chance = np.random.default_rng(0)
    for _ in range(300):
        broken = bytearray(whole)
        for place in chance.integers(0, 16, 2).tolist() + chance.integers(len(whole) - 160, len(whole), 3).tolist():
            broken[place] = chance.integers(256)
        (tmp_path / "clip.mkt").write_bytes(broken[: chance.integers(len(broken))] if chance.random() < 0.5 else broken)
        with contextlib.suppress(VideoError):
            for _ in clips.FORMATS["mkt"].read(tmp_path / "clip.mkt", NO_CAPS):
                pass


# --- all of them ----------------------------------------------------------------------------------------


def one_of_each(folder: Path) -> dict[str, Path]:
    tifffile.imwrite(folder / "a", pictures(), description="Smith^John")
    return {
        "tiff": folder / "a",
        "mkt": clip_files.mkt(folder / "b", pictures(kind=np.int16)),
        "dicom": clip_files.dicom(folder / "c", pictures().tobytes(), frames=6, size_px=(48, 64)),
        "frame_folder": clip_files.frame_folder(folder / "d", pictures(), ".png"),
        "ffmpeg": clip_files.video(folder / "e.mp4", "libx264", pictures()).rename(folder / "e"),
    }


def test_the_reader_is_chosen_by_content(tmp_path: Path) -> None:
    for name, path in one_of_each(tmp_path).items():
        assert clips.sniff(path) == name
        assert len(list(clips.read_frames(path))) == 6


def test_caps_hold_for_every_format(tmp_path: Path) -> None:
    for name, path in one_of_each(tmp_path).items():
        assert code_of(path, Caps(pixels=48 * 64 - 1)) == "over_pixels", name
        assert code_of(path, Caps(frames=5)) == "over_frames", name
        assert code_of(path, Caps(bytes=99)) == "over_bytes", name
        assert code_of(path, Caps(minutes=0.001)) == "over_minutes", name
        size = sum(file.stat().st_size for file in (path.iterdir() if path.is_dir() else [path]))
        assert len(list(clips.read_frames(path, caps=Caps(pixels=48 * 64, frames=6, bytes=size, minutes=1)))) == 6


def test_another_decoder_of_one_format_is_none_of_another(tmp_path: Path) -> None:
    identity = {name: clips.decoder_identity(path) for name, path in one_of_each(tmp_path).items()}
    assert "pydicom" in identity["dicom"]
    assert "pydicom" not in identity["ffmpeg"] + identity["tiff"] + identity["mkt"]
    assert "libavcodec" not in identity["tiff"] + identity["frame_folder"]


def test_a_clip_of_one_moment_has_an_impossible_rate(tmp_path: Path) -> None:
    tags = {"FrameTime": "0.0001"}
    clip = clip_files.dicom(tmp_path / "clip.dcm", pictures().tobytes(), frames=6, size_px=(48, 64), **tags)
    assert code_of(clip) == "impossible_rate"
