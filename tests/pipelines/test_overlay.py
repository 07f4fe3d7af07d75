"""The film of a prediction: every frame at its own time, what the model says of it, and nothing of who was filmed."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest

from pipelines import predict
from pipelines.errors import WrongUseError
from pipelines.inference import Prediction, VideoPrediction
from pipelines.report import overlay
from pipelines.video.writer import write_colour

CLASSES = ("glioma", "meningioma")
PTS = (1.0, 1.04, 1.12, 1.16, 1.5)  # of a clip that was cut and whose rate varies
KEEP = (True, True, False, True, True)
P_GLIOMA = (0.9, 0.2, 0.0, 0.1, 0.1)


@pytest.fixture
def found() -> VideoPrediction:
    rng = np.random.default_rng(0)
    side_px = 32
    fov_SS = np.hypot(*(np.mgrid[:side_px, :side_px] - 15.5)) < 15
    probabilities_NK = np.array([(p, 1 - p) for p in P_GLIOMA], np.float32)
    frames = len(PTS)
    return VideoPrediction(
        frame_index_N=np.arange(frames, dtype=np.int32),
        pts_seconds_N=np.array(PTS),
        images_NSS=rng.integers(0, 255, (frames, side_px, side_px), dtype=np.uint8) * fov_SS,
        fov_NSS=np.broadcast_to(fov_SS, (frames, side_px, side_px)),
        keep_N=np.array(KEEP),
        prediction=Prediction(
            probabilities_NK=probabilities_NK,
            score_N=np.full(frames, 0.5, np.float32),
            predicted_N=probabilities_NK.argmax(1),
            reject_N=np.zeros(frames, bool),
            saliency_NSS=np.ones((frames, side_px, side_px), np.float32) * fov_SS,
        ),
    )


def film(found: VideoPrediction, path: Path) -> Path:
    write_colour(path, overlay.frames(CLASSES, found, "7"), found.pts_seconds_N.tolist())
    return path


def test_frames_come_at_the_times_of_the_clip(found: VideoPrediction, tmp_path: Path) -> None:
    with av.open(str(film(found, tmp_path / "film.mp4"))) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
        times = [float(frame.pts * frame.time_base) for frame in container.decode(stream)]
    assert times == pytest.approx([pts - PTS[0] for pts in PTS], abs=1e-4)


def test_a_clip_of_one_frame_is_a_film_too(found: VideoPrediction, tmp_path: Path) -> None:
    frame = next(overlay.frames(CLASSES, found, "7"))
    write_colour(tmp_path / "one.mp4", [frame], [3.0])
    with av.open(str(tmp_path / "one.mp4")) as container:
        assert len(list(container.decode(video=0))) == 1


def test_the_same_prediction_makes_the_same_bytes_and_they_name_nobody(found: VideoPrediction, tmp_path: Path) -> None:
    first, second = (film(found, tmp_path / name / "Jane Doe.mp4") for name in ("a", "b"))
    assert first.read_bytes() == second.read_bytes()
    assert b"Jane" not in first.read_bytes()
    with av.open(str(first)) as container:
        named = container.metadata | container.streams.video[0].metadata
    assert set(named) <= {"major_brand", "minor_version", "compatible_brands", "language", "handler_name", "vendor_id"}


def test_what_is_said_of_the_clip_so_far_is_the_mean_of_its_judged_frames(
    found: VideoPrediction, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[overlay.Running] = []
    picture = overlay.picture
    monkeypatch.setattr(overlay, "picture", lambda *given: seen.append(given[3]) or picture(*given))
    list(overlay.frames(CLASSES, found, "7"))
    for n, running in enumerate(seen):
        judged = [p for p, keep in list(zip(P_GLIOMA, KEEP, strict=True))[: n + 1] if keep]
        mean = sum(judged) / len(judged)
        assert running.frames == len(judged)
        assert (running.name, running.share) == (
            ("glioma", pytest.approx(mean)) if mean > 0.5 else ("meningioma", pytest.approx(1 - mean))
        )


def test_evidence_is_coloured_and_a_frame_that_is_not_judged_has_none(found: VideoPrediction) -> None:
    coloured = []
    for frame_HW3 in overlay.frames(CLASSES, found, "7"):
        assert frame_HW3.shape[0] % 2 == frame_HW3.shape[1] % 2 == 0
        right = 2 * overlay.GAP_PX + overlay.SIDE_PX
        map_LL3 = frame_HW3[overlay.GAP_PX :][: overlay.SIDE_PX, right:][:, : overlay.SIDE_PX].astype(int)
        middle = map_LL3[150:250, 150:250]
        coloured.append(bool((np.ptp(middle, axis=2) > 20).mean() > 0.5))
    assert coloured == list(KEEP)


@pytest.mark.parametrize("name", ["film.avi", "film", "clip.mp4"])
def test_a_film_has_a_name_of_its_own(tmp_path: Path, name: str) -> None:
    with pytest.raises(WrongUseError, match=r"new \.mp4"):
        predict._require_film(tmp_path / name, tmp_path / "clip.mp4")
