"""The gate passes what is as good, refuses what is worse or cannot be judged, and waits for patients."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from pipelines import gate
from pipelines.errors import OutsideSystemError, StageError
from pipelines.gate import Contestant, GateResult
from pipelines.params import EvaluateParams, PromoteParams

CLASSES = ("glioma", "meningioma")
BOOTSTRAP = EvaluateParams(seed=0, bootstrap=200, confidence=0.95, corruption_frames=0, faithfulness_frames=0)


def policy(**changes: Any) -> PromoteParams:
    values: dict[str, Any] = {
        "approval": "manual",
        "min_macro_f1": 0.8,
        "max_loss": 0.02,
        "min_patients": 8,
        "allow_new_classes": False,
    }
    return PromoteParams(**(values | changes))


def cohort(patients: int = 8, classes: tuple[str, ...] = CLASSES) -> pd.DataFrame:
    rows = [(f"v{n}", f"p{n}", classes[n % len(classes)]) for n in range(patients)]
    return pd.DataFrame(rows, columns=["video_id", "patient_id", "label"])


def contestant(
    test: pd.DataFrame, *, wrong: int = 0, name: str = "version 2", frames: int = 10, **changes: Any
) -> Contestant:
    """Right on every frame of every video but for the first ``wrong`` frames of each."""
    other = dict(zip(CLASSES, CLASSES[::-1], strict=True))
    rows = [
        (row.video_id, n, other.get(row.label, "glioma") if n < wrong else row.label, {}, False)
        for row in test.itertuples()
        for n in range(frames)
    ]
    fields: dict[str, Any] = {
        "name": name,
        "classes": sorted(set(test.label)),
        "training_videos": frozenset({"other"}),
        "scores": pd.DataFrame(rows, columns=gate.COLUMNS),
    }
    return Contestant(**(fields | changes))


def decide(challenger: Contestant, champion: Contestant | None, test: pd.DataFrame, **changes: Any) -> GateResult:
    return gate.decide(policy(**changes), challenger=challenger, champion=champion, test=test, bootstrap=BOOTSTRAP)


def clauses(result: GateResult) -> dict[str, str]:
    return {clause.name: clause.verdict for clause in result.clauses}


def test_a_good_first_model_passes_the_floor() -> None:
    test = cohort()
    result = decide(contestant(test), None, test)
    assert result.verdict == "passed"
    assert clauses(result) == dict.fromkeys(("unseen_videos", "enough_patients", "macro_f1"), "passed")


def test_a_weak_model_is_refused() -> None:
    test = cohort()
    result = decide(contestant(test, wrong=3), None, test)
    assert result.verdict == "refused"
    # truth: 7 of 10 frames of each class right, in balance, so F1 is 0.7 for both
    assert result.clauses[-1].value == pytest.approx(0.7)


def test_too_few_patients_leave_it_undecided_and_say_how_many_are_missing() -> None:
    test = cohort(patients=5)
    result = decide(contestant(test), None, test)
    assert result.verdict == "undecided"
    assert "3 more" in next(clause.note for clause in result.clauses if clause.name == "enough_patients")


def test_a_weak_model_is_refused_even_on_few_patients() -> None:
    test = cohort(patients=4)
    assert decide(contestant(test, wrong=5), None, test).verdict == "refused"


@pytest.mark.parametrize(("wrong", "verdict"), [(0, "passed"), (1, "passed"), (2, "refused")])
def test_a_challenger_may_lose_no_more_than_allowed(wrong: int, verdict: str) -> None:
    test = cohort()
    champion = contestant(test, wrong=1, name="version 1")
    result = decide(contestant(test, wrong=wrong), champion, test)
    assert result.verdict == verdict
    loss = result.clauses[-1]
    assert loss.value == pytest.approx((wrong - 1) / 10)
    assert loss.interval == pytest.approx([loss.value] * 2), "every patient loses the same"


def test_a_loss_exactly_at_the_bound_is_allowed() -> None:
    test = cohort()
    champion = contestant(test, name="version 1")
    assert decide(contestant(test, wrong=1), champion, test, max_loss=0.1).verdict == "passed"


def test_the_interval_is_paired_and_resamples_patients() -> None:
    test = cohort(patients=20)
    champion = contestant(test, wrong=2, name="version 1")
    scores = champion.scores.copy()
    first = scores.video_id.isin(["v0", "v1", "v2", "v3"])
    truth = scores.video_id.map(dict(zip(test.video_id, test.label, strict=True)))
    scores.loc[first, "predicted"] = truth[first]
    better = contestant(test, scores=scores)
    loss = decide(better, champion, test).clauses[-1]
    assert loss.value is not None
    assert loss.interval is not None
    assert loss.interval[0] < loss.value < loss.interval[1] <= 0.0, "no draw has it worse than the champion"
    # the oracle: resample patients within each class, in loops
    generator = np.random.default_rng(1)
    mine, theirs = (one.merge(test, on="video_id") for one in (scores, champion.scores))
    draws = []
    for _ in range(100):
        chosen = [
            patient
            for label in CLASSES
            for patient in generator.choice(sorted(set(test[test.label == label].patient_id)), 10)
        ]
        pair = [
            gate.macro_f1(pd.concat([one[one.patient_id == patient] for patient in chosen])) for one in (theirs, mine)
        ]
        draws.append(pair[0] - pair[1])  # type: ignore[operator]
    assert loss.interval == pytest.approx(np.quantile(draws, [0.025, 0.975]), abs=0.03)


@pytest.mark.parametrize("who", ["version 1", "version 2"])
def test_a_test_video_in_either_training_set_refuses(who: str) -> None:
    test = cohort()
    seen = {"training_videos": frozenset({"v3"})}
    champion = contestant(test, name="version 1", **(seen if who == "version 1" else {}))
    challenger = contestant(test, **(seen if who == "version 2" else {}))
    result = decide(challenger, champion, test)
    assert result.verdict == "refused"
    assert who in result.clauses[0].note


def test_other_classes_are_refused_unless_allowed_and_compared_on_the_shared() -> None:
    test = cohort(patients=9, classes=(*CLASSES, "metastasis"))
    champion = contestant(test, name="version 1", classes=list(CLASSES))
    wrong = champion.scores.copy()
    new = wrong.video_id.isin(test[test.label == "metastasis"].video_id)
    wrong.loc[new, "predicted"] = "glioma"
    champion = contestant(test, name="version 1", classes=list(CLASSES), scores=wrong)
    challenger = contestant(test)
    refused = decide(challenger, champion, test)
    assert (refused.verdict, clauses(refused)["classes"]) == ("refused", "refused")
    allowed = decide(challenger, champion, test, allow_new_classes=True)
    assert allowed.verdict == "passed"
    assert allowed.clauses[-1].value == pytest.approx(0.0), "what the champion cannot know does not count"


def test_without_numbers_nothing_passes() -> None:
    test = cohort()
    empty = pd.DataFrame([], columns=gate.COLUMNS)
    alone = decide(contestant(test, scores=empty), None, test)
    assert (alone.verdict, clauses(alone)["macro_f1"]) == ("refused", "refused")
    beside = decide(contestant(test), contestant(test, name="version 1", scores=empty), test)
    assert (beside.verdict, clauses(beside)["loss"]) == ("refused", "refused")


def test_the_report_is_json_and_names_its_policy() -> None:
    test = cohort()
    found = decide(contestant(test), contestant(test, name="version 1"), test).as_json()
    other = decide(contestant(test), None, test, max_loss=0.5).as_json()
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert found["policy_sha256"] != other["policy_sha256"]
    assert {"name", "verdict", "value", "bound", "note"} <= set(found["clauses"][0])


def test_a_package_is_scored_by_its_own_code_and_only_once(
    package: Path, make_clip: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    videos = {
        "a" * 64: make_clip(tmp_path / "a.mp4", dark=1),
        "b" * 64: make_clip(tmp_path / "b.mp4", seed=1),
    }
    monkeypatch.setenv("LCLSC_SERVE_ROOT", "/nowhere")
    monkeypatch.setenv("PYTHONPATH", str(Path(gate.__file__).parents[1]))
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
    monkeypatch.setattr(subprocess, "run", None)  # scored videos start no process
    again = gate.score_package(package, videos, tmp_path / "scores")
    pd.testing.assert_frame_equal(again, found.scores)


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
