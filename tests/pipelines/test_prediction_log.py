"""The prediction log: a row a frame, parts that are whole, nothing that names anybody."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines import prediction_log, schemas
from pipelines.errors import WrongUseError
from pipelines.files import sha256_file
from pipelines.inference import load_classifier, predict_video
from pipelines.prediction_log import PredictionLog

ASK = """
import sys, mlflow, pandas
model = mlflow.pyfunc.load_model(sys.argv[1])
for site in ("theatre 2", ""):
    params = {"site": site, "case": site and "Jane Doe 1950-01-01"}
    model.predict(pandas.DataFrame({"video": [sys.argv[2]]}), params=params)
"""


def row(frame: int = 0, **changes: object) -> dict[str, object]:
    given = {
        "at": 0,
        "version": "1",
        "site": None,
        "case": None,
        "source": "a" * 64,
        "kind": "image",
        "frame_index": frame,
        "fit": True,
    }
    said = {"predicted": "glioma", "probabilities": [("glioma", 1.0)], "distances": [("glioma", 0.1)], "score": 0.9}
    return {**given, **said, "reject": False, **dict.fromkeys(schemas.IMAGE_FIGURES, 1.0), **changes}


def read(folder: Path) -> pa.Table:
    return pa.concat_tables(pq.read_table(path) for path in sorted(folder.glob("*.parquet")))


def test_a_packaged_model_notes_what_it_looked_at_and_nothing_more(
    package: Path, make_clip: Callable[..., Path], tmp_path: Path
) -> None:
    clip = make_clip(tmp_path / "Jane Doe.mp4", frames=6, dark=2)
    folder = tmp_path / "served"
    done = subprocess.run(
        [sys.executable, "-I", "-B", "-c", ASK, package, clip],
        env=os.environ | {prediction_log.FOLDER: str(folder), prediction_log.VERSION: "7"},
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    (part,) = folder.glob("*.parquet")
    assert b"Jane" not in part.read_bytes()
    assert folder.stat().st_mode & 0o077 == 0
    table = read(folder)
    assert table.schema.equals(schemas.SERVED)
    rows = table.to_pylist()
    assert [(one["site"], one["frame_index"], one["fit"]) for one in rows] == [
        (site, frame, frame < 4) for site in ("theatre 2", None) for frame in range(6)
    ]
    assert [bool(one["case"]) for one in rows] == [True] * 6 + [False] * 6
    assert {(one["version"], one["kind"], one["source"]) for one in rows} == {("7", "video", sha256_file(clip))}
    found = predict_video(load_classifier(package / "artifacts" / "model"), clip)
    assert found.prediction.similarity_NK is not None
    for n, one in enumerate(rows[:6]):
        distances = np.array([distance for _, distance in one["distances"]])
        assert distances == pytest.approx(1 - found.prediction.similarity_NK[n], abs=1e-5)
        assert one["score"] == pytest.approx(1 - distances.min(), abs=1e-5)
        assert one["mean"] == pytest.approx(found.images_NSS[n][found.fov_NSS[n]].mean(), abs=1e-3)


def test_parts_appear_by_the_clock(tmp_path: Path) -> None:
    log = PredictionLog(tmp_path / "served", version="1", interval_seconds=0.2)
    log.note([row(0), row(1)])
    assert list(log.folder.iterdir()) == []
    deadline = time.monotonic() + 20
    while not list(log.folder.iterdir()) and time.monotonic() < deadline:
        time.sleep(0.02)
    log.note([row(2)])
    log.flush()
    log.flush()
    assert len(list(log.folder.iterdir())) == 2
    assert sorted(read(log.folder)["frame_index"].to_pylist()) == [0, 1, 2]


def test_a_full_disk_loses_nothing(tmp_path: Path) -> None:
    log = PredictionLog(tmp_path / "served", version="1", interval_seconds=3600)
    log.note([row(0)])
    (tmp_path / "served").rename(tmp_path / "away")
    (tmp_path / "served").touch()  # whatever is written now fails
    log.flush()
    (tmp_path / "served").unlink()
    (tmp_path / "away").rename(tmp_path / "served")
    log.note([row(1)])
    log.flush()
    assert sorted(read(log.folder)["frame_index"].to_pylist()) == [0, 1]


def test_while_the_disk_is_full_the_oldest_rows_go_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prediction_log, "MOST_ROWS", 2)
    log = PredictionLog(tmp_path / "served", version="1", interval_seconds=3600)

    def full(*_: object) -> None:
        log.note([row(2)])  # a request that is answered meanwhile
        raise OSError(errno.ENOSPC, "No space left on device")

    log.note([row(0), row(1)])
    with monkeypatch.context() as disk:
        disk.setattr(schemas, "write_table", full)
        log.flush()
    log.flush()
    assert read(log.folder)["frame_index"].to_pylist() == [1, 2]


@pytest.mark.parametrize("site", ["a" * 65, "Jane\nDoe", "../x", "<b>", "é"])
def test_a_site_is_the_name_of_a_place(site: str) -> None:
    with pytest.raises(WrongUseError, match="name of a place"):
        prediction_log.checked_site(site)
    assert prediction_log.checked_site("theatre 2") == "theatre 2"
    assert prediction_log.checked_site("") is None


def test_a_case_is_kept_as_a_hash_that_needs_its_folders_key(tmp_path: Path) -> None:
    first, again, other = (PredictionLog(tmp_path / name, version="1") for name in ("a", "a", "b"))
    assert first.case("Jane Doe") == again.case("Jane Doe") != first.case("John Doe")
    assert first.case("Jane Doe") != other.case("Jane Doe")
    assert "Jane" not in str(first.case("Jane Doe"))
    assert first.case("") is first.case(None) is None
    assert [path.stat().st_mode & 0o077 for path in (tmp_path / "a").iterdir()] == [0]
    with pytest.raises(WrongUseError, match="300 characters"):
        first.case("x" * 300)


def test_the_front_door_loads_no_torch() -> None:
    code = "import sys, pipelines.serving.server; assert 'torch' not in sys.modules, 'imported'"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_clips_of_a_patient_who_withdrew_leave_the_log(tmp_path: Path) -> None:
    for sources in ("aab", "bb", "cc"):
        log = PredictionLog(tmp_path / "served", version="1")
        log.note([row(frame, source=source) for frame, source in enumerate(sources)])
        log.flush()
    assert prediction_log.remove(tmp_path / "served", {"b"}) == 3
    assert sorted(read(tmp_path / "served")["source"].to_pylist()) == ["a", "a", "c", "c"]
    assert prediction_log.remove(tmp_path / "served", {"b"}) == 0
    assert prediction_log.remove(tmp_path / "nothing", {"b"}) == 0
