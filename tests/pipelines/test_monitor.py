"""The monitor on a real registry, a real log and real clips."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pipelines import ledger, manifest, monitor, prediction_log, registry
from pipelines.errors import WrongUseError
from pipelines.inference import Prediction
from pipelines.prediction_log import PredictionLog
from pipelines.registry import Submission
from pipelines.video.quality import Quality
from pipelines.workspace import Workspace, template_file

DAY_MS = 24 * 3600 * 1000
NOW_MS = 1_000 * DAY_MS
CLASSES = ("glioma", "meningioma")


@pytest.fixture
def monitored(tracked: Workspace, package: Path) -> Workspace:
    """A workspace whose version 1 is champion."""
    shutil.copyfile(template_file("params.yaml"), tracked.params)
    store = registry.connect(tracked)
    store.register(Submission(key="k" * 64, train_key="t" * 64, data_version="0" * 12, package=package))
    store.set_alias("champion", "1")
    return tracked


def serve(
    workspace: Workspace, clips: int, *, days_ago: float, gain: float = 1.0, seed: int = 0, now_ms: int = NOW_MS
) -> None:
    """What a server would have noted of so many clips of eight frames."""
    rng = np.random.default_rng(seed)
    log = PredictionLog(workspace.served, version="1")
    for clip in range(clips):
        level = gain * rng.normal(100, 10)
        similarity_NK = rng.normal((0.8, 0.1), 0.05, (8, 2)).astype(np.float32)
        rows = prediction_log.rows(
            version="1",
            kind="video",
            source=f"{seed}-{clip}",
            site="theatre 2",
            case=None,
            classes=CLASSES,
            frame_index_N=np.arange(8),
            fit_N=np.ones(8, bool),
            figures=[
                Quality(mean=level + n, contrast=50 * rng.random(), saturated=0.0, sharpness=0.1, smear=1.2, change=1.0)
                for n in range(8)
            ],
            grain=list(rng.normal(5, 1, 8)),
            prediction=Prediction(
                probabilities_NK=np.array([[0.8, 0.2]] * 8, np.float32),
                score_N=similarity_NK[:, 0],
                predicted_N=np.zeros(8, np.int64),
                reject_N=np.zeros(8, bool),
                saliency_NSS=np.zeros((8, 1, 1), np.float32),
                similarity_NK=similarity_NK,
            ),
        )
        log.note([{**row, "at": now_ms - round(days_ago * DAY_MS)} for row in rows])
    log.flush()


def look(workspace: Workspace, **options: object) -> monitor.MonitorReport:
    return monitor.run(workspace, against="log", now_ms=NOW_MS, **options)  # type: ignore[arg-type]


def test_a_week_like_the_weeks_before_is_steady_and_a_darker_one_is_drift(monitored: Workspace) -> None:
    serve(monitored, 24, days_ago=20)
    assert look(monitored).status == "too_few"
    serve(monitored, 12, days_ago=2, seed=1)
    steady = look(monitored)
    assert (steady.status, steady.cases, steady.reference_cases) == ("steady", 12, 24)
    assert ledger.read(monitored.ledger) == []
    serve(monitored, 24, days_ago=1, gain=0.6, seed=2)
    drifted = look(monitored, days=1.5)
    assert (drifted.status, [one.figure for one in drifted.alarms]) == ("drift", ["mean"])
    assert json.loads(json.dumps(drifted.as_json(), allow_nan=False))["action"] == "note"


def test_an_alarm_is_noted_once(monitored: Workspace) -> None:
    serve(monitored, 24, days_ago=20)
    serve(monitored, 24, days_ago=1, gain=0.6, seed=2)
    look(monitored, record=False)
    assert ledger.read(monitored.ledger) == []
    look(monitored)
    look(monitored)
    (event,) = ledger.read(monitored.ledger)
    assert (event.event, event.subject, event.data["figures"]) == ("drifted", "version 1", ["theatre 2: mean"])


@pytest.fixture
def with_videos(monitored: Workspace, make_clip: Callable[..., Path]) -> Workspace:
    """One training video, eight tested on and, taken in later and darker, eight more."""
    names = [f"{n:064x}" for n in range(17)]
    videos = [
        manifest.Video(video_id=name, patient_id=f"k-{n}", site="a", domain="ex-vivo", label="glioma", mask_sha256="")
        for n, name in enumerate(names)
    ]
    manifest.write_videos(monitored.manifest, videos)
    manifest.write_splits(monitored.splits, {f"k-{n}": "test" if n else "train" for n in range(17)})
    manifest.write_provenance(
        monitored.provenance,
        [
            manifest.Provenance(
                video_id=name,
                source_name_hmac="",
                received_at="1972-09-01T00:00:00Z" if n < 9 else "1972-09-26T00:00:00Z",
                label_source="",
                consent="",
            )
            for n, name in enumerate(names)
        ],
    )
    for n, name in enumerate(names):
        make_clip(monitored.videos / f"{name}.mp4", seed=n, frames=4, gain=1.0 if n < 9 else 0.5)
    return monitored


def test_the_reference_is_what_the_version_says_of_its_own_unseen_videos(with_videos: Workspace) -> None:
    serve(with_videos, 12, days_ago=1)
    report = monitor.run(with_videos, now_ms=NOW_MS)
    assert (report.cases, report.reference_cases) == (12, 16), "a training video is none of them"
    assert "mean" in {one.figure for one in report.findings}
    (kept,) = (with_videos.state / "observed").iterdir()
    before = [path.stat().st_mtime_ns for path in kept.iterdir()]
    assert monitor.run(with_videos, now_ms=NOW_MS).findings == report.findings
    assert [path.stat().st_mtime_ns for path in kept.iterdir()] == before, "it looked once"


def test_new_intake_is_held_against_what_was_there_before(with_videos: Workspace) -> None:
    report = monitor.run(with_videos, source="intake", days=5, now_ms=NOW_MS)
    assert (report.cases, report.reference_cases) == (8, 8)
    alarms = {one.figure: one for one in report.alarms}
    assert {"mean", "contrast"} <= set(alarms)
    assert alarms["mean"].effect == 0.0, "every new clip is darker than every old one"


def test_the_command_exits_with_one_on_an_alarm(monitored: Workspace) -> None:
    now_ms = int(time.time() * 1000)
    serve(monitored, 24, days_ago=20, now_ms=now_ms)
    serve(monitored, 24, days_ago=1, gain=0.6, seed=2, now_ms=now_ms)
    command = [str(Path(sys.executable).with_name("lclsc")), "monitor", "--workspace", str(monitored.root), "--json"]
    done = subprocess.run([*command, "--against", "log"], capture_output=True, text=True)
    assert (done.returncode, json.loads(done.stdout)["status"]) == (1, "drift"), done.stderr


def test_without_a_model_there_is_nothing_to_monitor(tracked: Workspace) -> None:
    shutil.copyfile(template_file("params.yaml"), tracked.params)
    with pytest.raises(WrongUseError, match="No model"):
        monitor.run(tracked)


def test_parts_that_end_before_the_look_are_not_read(monitored: Workspace) -> None:
    serve(monitored, 20, days_ago=1)
    (monitored.served / "19700101T000000Z-v1-0.parquet").write_bytes(b"no table")
    version = monitor.choose(registry.connect(monitored), "1")
    assert monitor._logged(monitored.served, version, since_ms=NOW_MS - 7 * DAY_MS).source.nunique() == 20
