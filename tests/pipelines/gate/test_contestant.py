"""A packaged model is scored in a process of its own, once, and what cannot be read or run is named."""

from __future__ import annotations

import importlib
import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import psutil
import pytest
from gate_cases import CLASSES

from pipelines import gate
from pipelines.errors import OutsideSystemError, StageError
from pipelines.gate import serving_cost
from pipelines.package import child


def watched(requests: list[dict[str, str]], run: Callable[..., str]) -> Callable[..., str]:
    """``child.run`` that keeps what was asked of the packaged model."""

    def kept(*given: Any) -> str:
        requests.append(json.loads(given[-2].read_text()))
        return run(*given)

    return kept


def test_a_package_is_scored_by_its_own_code_and_kept(
    package: Path, make_clip: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    videos = {
        "a" * 64: make_clip(tmp_path / "a.mp4", dark=1),
        "b" * 64: make_clip(tmp_path / "b.mp4", seed=1),
    }
    monkeypatch.setenv("LCLSC_SERVE_ROOT", "/nowhere")
    monkeypatch.setenv("PYTHONPATH", str(Path(gate.__file__).parents[2]))
    found = gate.contestant("version 1", package, videos, tmp_path / "scores")
    assert found.classes == list(CLASSES)
    assert found.training_videos == {"a" * 64, "b" * 64, "c" * 64}
    assert list(found.scores.columns) == gate.COLUMNS
    assert found.scores.groupby("video_id").size().to_dict() == {"a" * 64: 5, "b" * 64: 6}
    from pipelines.inference import load_classifier, predict_video

    here = predict_video(load_classifier(package / "artifacts" / "model"), videos["b" * 64])
    there = found.scores[found.scores.video_id == "b" * 64]
    probabilities = np.array([list(row.values()) for row in there.probabilities])
    assert probabilities == pytest.approx(here.prediction.probabilities_NK, abs=1e-5)
    requests: list[dict[str, str]] = []
    monkeypatch.setattr(child, "run", watched(requests, child.run))
    for _ in range(2):
        again = gate.score_package(package, videos, tmp_path / "scores")
        pd.testing.assert_frame_equal(again, found.scores)
    assert [sorted(request.values()) for request in requests] == [
        [str(videos["a" * 64])],
        [str(videos["b" * 64])],
    ], "one video at a time is scored again, each in its turn"


@pytest.mark.parametrize("fate", ["waits", "died"])
def test_a_process_that_was_started_before_says_the_same(
    package: Path, make_clip: Callable[..., Path], tmp_path: Path, fate: str
) -> None:
    videos = {"a" * 64: make_clip(tmp_path / "a.mp4", seed=1)}
    found = gate.score_package(package, videos, tmp_path / "scores")
    gate.prepare()
    waiting = child._waiting["score_child.py"]
    if fate == "died":
        waiting.kill()
        waiting.wait()
    shutil.rmtree(tmp_path / "scores")
    pd.testing.assert_frame_equal(gate.score_package(package, videos, tmp_path / "scores"), found)
    assert waiting.returncode == (-signal.SIGKILL if fate == "died" else 0)


def test_a_process_that_was_killed_says_nothing_about_the_model(
    package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = child._started

    def killed(*given: Any) -> Any:
        process = started(*given)
        process.kill()
        return process

    monkeypatch.setattr(child, "_started", killed)
    with pytest.raises(OutsideSystemError, match="signal 9") as raised:
        gate.score_package(package, {"a" * 64: tmp_path / "a.mp4"}, tmp_path / "scores")
    assert raised.value.transient


def test_a_process_that_waits_ends_with_the_one_that_started_it() -> None:
    code = "from pipelines import gate; from pipelines.package import child; gate.prepare(); "
    code += "print(child._waiting['score_child.py'].pid)"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stderr == ""
    pid = int(done.stdout)
    psutil.wait_procs([psutil.Process(pid)] if psutil.pid_exists(pid) else [], timeout=60)
    assert not psutil.pid_exists(pid)


def test_kept_scores_that_the_package_does_not_give_are_thrown_away(
    package: Path, make_clip: Callable[..., Path], tmp_path: Path
) -> None:
    videos = {name * 64: make_clip(tmp_path / f"{name}.mp4", seed=n) for n, name in enumerate("ab")}
    sound = gate.score_package(package, videos, tmp_path / "scores")
    for path in (tmp_path / "scores").rglob("*.json"):
        path.write_text(path.read_text().replace('"reject": false', '"reject": true'))
    pd.testing.assert_frame_equal(gate.score_package(package, videos, tmp_path / "scores"), sound)


@pytest.mark.parametrize("name", ["torch", "numpy", "mlflow"])
def test_scores_by_another_version_of_what_a_package_runs_on_are_not_taken(
    package: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = importlib.import_module("pipelines.gate.contestant")
    before, real = module.package_identity(package), module.version
    assert module.package_identity(package) == before
    monkeypatch.setattr(module, "version", lambda one: "0.0" if one == name else real(one))
    assert module.package_identity(package) != before


def test_a_recheck_that_fails_is_told_and_costs_no_kept_score(
    package: Path, make_clip: Callable[..., Path], tmp_path: Path
) -> None:
    clip = make_clip(tmp_path / "a.mp4", seed=1)
    sound = gate.score_package(package, {"a" * 64: clip}, tmp_path / "scores")
    good = clip.read_bytes()
    clip.write_bytes(b"no video")
    with pytest.raises(StageError, match="aaaaaaaaaaaa: The video cannot be decoded"):
        gate.score_package(package, {"a" * 64: clip}, tmp_path / "scores")
    pd.testing.assert_frame_equal(gate.kept_scores(package, {"a" * 64: clip}, tmp_path / "scores"), sound)
    clip.write_bytes(good)
    pd.testing.assert_frame_equal(gate.score_package(package, {"a" * 64: clip}, tmp_path / "scores"), sound)


def test_a_package_that_judges_a_frame_twice_is_refused(
    package: Path, make_clip: Callable[..., Path], tmp_path: Path
) -> None:
    videos = {"a" * 64: make_clip(tmp_path / "a.mp4", seed=1)}
    gate.score_package(package, videos, tmp_path / "scores")
    (kept,) = (tmp_path / "scores").rglob("*.json")
    found = json.loads(kept.read_text())
    kept.write_text(json.dumps({"rows": [*found["rows"], found["rows"][0]]}))
    with pytest.raises(StageError, match="more than once"):
        gate.kept_scores(package, videos, tmp_path / "scores")


def test_a_video_that_a_package_cannot_read_is_named(package: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.mp4").write_bytes(b"no video")
    videos = {"d" * 64: tmp_path / "bad.mp4"}
    with pytest.raises(StageError, match="dddddddddddd: The video cannot be decoded"):
        gate.score_package(package, videos, tmp_path / "scores")
    assert not list((tmp_path / "scores").rglob("*.json")), "a failure is not remembered"


def test_a_package_that_does_not_run_is_an_outside_failure(package: Path, tmp_path: Path) -> None:
    broken = shutil.copytree(package, tmp_path / "broken")
    (broken / "code" / "pipelines" / "inference.py").write_text("raise ImportError('gone')")
    (tmp_path / "clip.mp4").touch()
    with pytest.raises(OutsideSystemError, match="gone"):
        gate.score_package(broken, {"a" * 64: tmp_path / "clip.mp4"}, tmp_path / "scores")


def test_the_cost_of_a_frame_is_measured_in_the_package_itself(package: Path) -> None:
    found = serving_cost.measure(package)
    assert 0 < found.latency_ms < 10_000
    assert 50 < found.memory_mib < 10_000
