"""The gate passes what is as good, refuses what is worse or cannot be judged, and waits for patients."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import pandas as pd
import pytest
from gate_cases import (
    CLASSES,
    FIGURES,
    cohort,
    contestant,
    decide,
    evidence,
    named,
    policy,
    refusing,
    verdicts,
)

from pipelines import gate
from pipelines.evidence.check import Check
from pipelines.gate import looks, seeds
from pipelines.gate.clause import worst
from pipelines.gate.evidence import Served
from pipelines.ledger import Entry

# --- alone -----------------------------------------------------------------------------------------


def test_a_good_first_model_passes_a_plain_floor() -> None:
    test = cohort()
    result = decide(contestant(test), None, test)
    assert result.verdict == "passed"
    assert set(verdicts(result)) == {
        *("unseen_patients", "same_answers", "lineage", "weights", "recorded_figures", "audit", "model_card"),
        *("enough_patients", "macro_f1", "calibration", "class_floor", "site_floor", "domain_floor"),
        "figures_complete",
    }


def test_a_weak_model_is_refused_even_on_few_patients() -> None:
    test = cohort(patients=4)
    result = decide(contestant(test, wrong=3), None, test)
    assert result.verdict == "refused"
    # truth: 7 of 10 frames of each class right, in balance, so F1 is 0.7 for both
    assert named(result, "macro_f1").value == pytest.approx(0.7)


def test_too_few_patients_leave_it_undecided_and_say_how_many_are_missing() -> None:
    test = cohort(patients=5)
    result = decide(contestant(test), None, test)
    assert (result.verdict, result.missing_patients) == ("undecided", 3)
    assert "3 more" in named(result, "enough_patients").note


def test_beside_a_champion_the_floor_is_asked_of_the_lower_bound() -> None:
    few, many = cohort(patients=8), cohort(patients=200)
    champion, allowed = {"name": "version 1"}, {"max_loss": 1.0, "min_macro_f1": 0.85}
    waits = decide(contestant(few, wrong=1), contestant(few, wrong=1, **champion), few, **allowed)
    floor = named(waits, "macro_f1")
    assert floor.verdict == "undecided"
    assert floor.value == pytest.approx(0.9)
    assert floor.interval is not None
    assert floor.interval[0] < 0.85
    assert floor.missing_patients is not None
    passes = decide(contestant(many, wrong=1), contestant(many, wrong=1, **champion), many, **allowed)
    assert named(passes, "macro_f1").verdict == "passed"


# --- beside the champion ---------------------------------------------------------------------------


def test_an_equal_challenger_waits_for_patients_and_passes_with_enough() -> None:
    found = {}
    for patients in (8, 40, 120):
        test = cohort(patients=patients)
        found[patients] = decide(contestant(test, wrong=1), contestant(test, wrong=1, name="version 1"), test)
    assert [result.verdict for result in found.values()] == ["undecided", "passed", "passed"]
    missing = found[8].missing_patients
    assert missing is not None
    assert 8 + missing <= 120, "as many as it says are enough"


def test_what_it_loses_beyond_the_margin_refuses_whatever_the_number_of_patients() -> None:
    for patients in (8, 120):
        test = cohort(patients=patients)
        result = decide(contestant(test, wrong=2), contestant(test, wrong=1, name="version 1"), test)
        assert refusing(result) == ["no_worse"]
        assert named(result, "no_worse").value == pytest.approx(0.1)


def test_patients_who_disagree_widen_the_interval() -> None:
    test = cohort(patients=40)
    champion = contestant(test, wrong=2, name="version 1")
    even = named(decide(contestant(test, wrong=2), champion, test), "no_worse")
    half = [f"v{n}" for n in range(0, 40, 4)] + [f"v{n}" for n in range(1, 40, 4)]
    mixed = contestant(test, wrong=4, wrong_of=half)
    uneven = named(decide(mixed, champion, test), "no_worse")
    assert even.value == pytest.approx(uneven.value)
    assert even.interval is not None
    assert uneven.interval is not None
    assert uneven.interval[1] > even.interval[1] + 0.05


def test_superiority_asks_more_than_no_loss() -> None:
    test = cohort(patients=16)
    champion = contestant(test, wrong=3, name="version 1")
    asked = {"comparison": "superiority"}
    assert decide(contestant(test, wrong=3), champion, test, **asked).verdict == "refused"
    one_better = contestant(test, wrong=3, wrong_of=[f"v{n}" for n in range(1, 16)])
    waits = decide(one_better, champion, test, **asked)
    assert named(waits, "better").verdict == "undecided"
    assert named(waits, "better").value == pytest.approx(0.5, abs=0.02), "one patient gained: as likely as not"
    assert named(decide(contestant(test, wrong=1), champion, test, **asked), "better").verdict == "passed"


def test_a_class_with_one_patient_carries_no_bound() -> None:
    test = pd.concat([cohort(patients=8), cohort(patients=9, classes=("metastasis",)).tail(1)])
    result = decide(contestant(test), contestant(test, name="version 1"), test)
    clause = named(result, "no_worse")
    assert (clause.verdict, clause.missing_patients) == ("undecided", 1)
    assert "metastasis" in clause.note


def test_other_classes_are_refused_unless_allowed_and_compared_on_the_shared() -> None:
    test = cohort(patients=120, classes=(*CLASSES, "metastasis"))
    champion = contestant(test, name="version 1", classes=list(CLASSES))
    wrong = champion.scores.copy()
    new = wrong.video_id.isin(test[test.label == "metastasis"].video_id)
    wrong.loc[new, "predicted"] = "glioma"
    champion = contestant(test, name="version 1", classes=list(CLASSES), scores=wrong)
    challenger = contestant(test)
    assert refusing(decide(challenger, champion, test)) == ["classes"]
    allowed = decide(challenger, champion, test, allow_new_classes=True)
    assert allowed.verdict == "passed"
    assert named(allowed, "no_worse").value == pytest.approx(0.0), "what the champion cannot know does not count"


def test_without_numbers_nothing_passes() -> None:
    test = cohort()
    empty = pd.DataFrame([], columns=gate.COLUMNS)
    alone = decide(contestant(test, scores=empty), None, test)
    assert {"macro_f1", "calibration", "class_floor", "site_floor", "domain_floor"} <= set(refusing(alone))
    beside = decide(contestant(test), contestant(test, name="version 1", scores=empty), test)
    assert {"no_worse", "subgroup_loss"} <= set(refusing(beside))


# --- each by its own clause ------------------------------------------------------------------------


def test_better_on_the_whole_but_worse_at_one_site_is_refused_for_that() -> None:
    test = cohort(patients=120)
    small = test.copy()
    small["site"] = ["site-1" if n < 6 else "site-0" for n in range(len(test))]
    champion = contestant(small, wrong=2, name="version 1")
    challenger = contestant(small, wrong=5, wrong_of=[f"v{n}" for n in range(6)])
    result = decide(challenger, champion, small)
    assert refusing(result) == ["subgroup_loss"]
    assert "site-1" in named(result, "subgroup_loss").note
    assert named(result, "no_worse").verdict == "passed"
    group = next(group for group in result.subgroups if group.name == "site-1")
    assert (group.patients, group.champion, group.value) == (6, pytest.approx(0.8), pytest.approx(0.5))


def silent(one: gate.Contestant, videos: list[str], kept: int = 0) -> gate.Contestant:
    """``one`` judges only the first ``kept`` frames of these videos."""
    scores = one.scores[~one.scores.video_id.isin(videos) | (one.scores.frame_index < kept)]
    return replace(one, scores=scores)


def test_who_is_silent_on_the_patients_it_fails_on_is_refused() -> None:
    test = cohort(patients=120)
    champion = contestant(test, wrong=1, name="version 1")
    result = decide(silent(contestant(test), ["v7", "v8"]), champion, test)
    assert refusing(result) == ["judged"]
    assert "p7, p8" in named(result, "judged").note


def test_a_challenger_may_leave_out_few_frames_and_is_compared_on_the_rest() -> None:
    test = cohort(patients=120)
    champion = contestant(test, wrong=1, name="version 1")  # wrong on frame 0 of each video
    half = [f"v{n}" for n in range(60)]
    tenth = silent(contestant(test, wrong=1), half[:24], kept=5)
    result = decide(tenth, champion, test)
    assert result.verdict == "passed"
    assert named(result, "judged").value == pytest.approx(24 * 5 / 1200)
    assert named(result, "no_worse").value == pytest.approx(0.0), "the same frames, and the same answers on them"
    assert refusing(decide(silent(contestant(test, wrong=1), half, kept=5), champion, test)) == ["judged"]
    assert refusing(decide(champion, silent(champion, half, kept=5), test)) == [], "judging more is no fault"


def test_silence_in_one_subgroup_is_seen_though_it_is_little_on_the_whole() -> None:
    test = cohort(patients=120)
    small = [f"v{n}" for n in range(10)]
    test.loc[test.video_id.isin(small), "site"] = "site-9"
    champion = contestant(test, wrong=1, name="version 1")
    result = decide(silent(contestant(test), small, kept=1), champion, test)
    assert refusing(result) == ["judged"]
    clause = named(result, "judged")
    assert clause.value == pytest.approx(0.9)
    assert "in site site-9" in clause.note


def test_a_subgroup_that_the_champion_judges_and_the_challenger_does_not_refuses() -> None:
    test = cohort(patients=120)
    test.loc[test.video_id == "v9", "site"] = "site-9"
    one, other = contestant(test), contestant(test, name="version 1")
    result = decide(silent(one, ["v9"]), other, test)
    assert refusing(result) == ["judged", "site_floor", "subgroup_loss"]
    assert "site-9 (0 patients) cannot be compared" in named(result, "subgroup_loss").note
    assert refusing(decide(one, silent(other, ["v9"]), test)) == [], "where the champion is silent nothing is lost"


def test_frames_that_a_model_repeats_do_not_count_twice() -> None:
    test = cohort()
    twice = contestant(test)
    twice = replace(twice, scores=pd.concat([twice.scores, twice.scores]))
    with pytest.raises(pd.errors.MergeError):
        decide(twice, contestant(test, name="version 1"), test)


def test_a_small_subgroup_below_its_bound_waits_for_patients() -> None:
    test = cohort(patients=120)
    test.loc[test.video_id == "v0", "site"] = "site-9"
    champion = contestant(test, name="version 1")
    result = decide(contestant(test, wrong=5, wrong_of=["v0"]), champion, test)
    assert result.verdict == "undecided"
    assert named(result, "subgroup_loss").missing_patients == 1


def test_an_empty_subgroup_refuses() -> None:
    test = cohort(patients=9, classes=(*CLASSES, "metastasis"))
    full = contestant(test)
    scores = full.scores[~full.scores.video_id.isin(test[test.label == "metastasis"].video_id)]
    result = decide(contestant(test, scores=scores), None, test, proof=evidence(test, contestant(test, scores=scores)))
    assert refusing(result) == ["class_floor"]
    known_but_untested = decide(contestant(cohort(), classes=[*CLASSES, "schwannoma"]), None, cohort())
    assert refusing(known_but_untested) == ["class_floor"]
    assert "schwannoma" in named(known_but_untested, "class_floor").note


def test_an_over_confident_model_is_refused_for_its_calibration() -> None:
    test = cohort()
    result = decide(contestant(test, wrong=1, sure=1.0), None, test, max_ece=0.05)
    assert refusing(result) == ["calibration"]
    assert named(result, "calibration").value == pytest.approx(0.1)


@pytest.mark.parametrize("who", ["version 1", "version 2"])
@pytest.mark.parametrize("what", ["the test video", "another video of a test patient", "a video of no manifest"])
def test_a_model_trained_on_a_test_patient_is_refused(who: str, what: str) -> None:
    test = cohort(patients=120)
    video = {"the test video": "v3", "another video of a test patient": "more of p3", "a video of no manifest": "?"}
    seen = {"training_videos": frozenset({"t0", video[what]})}
    champion = contestant(test, name="version 1", **(seen if who == "version 1" else {}))
    challenger = contestant(test, **(seen if who == "version 2" else {}))
    proof = evidence(test, challenger)
    known = proof.videos | {"more of p3": replace(proof.videos["v3"], video_id="more of p3")}
    result = decide(challenger, champion, test, proof=replace(proof, videos=known))
    assert refusing(result) == ["unseen_patients"]
    assert who in named(result, "unseen_patients").note


def test_wrong_weights_are_refused_because_they_answer_otherwise() -> None:
    test = cohort()
    result = decide(contestant(test, sure=0.9), None, test, proof=evidence(test, contestant(test)))
    assert refusing(result) == ["same_answers"]
    assert "80 of 80 frames" in named(result, "same_answers").note


def test_frames_that_are_missing_or_new_are_other_answers() -> None:
    test = cohort()
    whole = contestant(test)
    for scores in (whole.scores.head(79), pd.concat([whole.scores, whole.scores.tail(1).assign(frame_index=99)])):
        result = decide(contestant(test, scores=scores), None, test, proof=evidence(test, whole))
        assert refusing(result) == ["same_answers"]


def test_without_recorded_predictions_nothing_passes() -> None:
    test = cohort()
    for recorded in (None, evidence(test, contestant(test)).recorded.assign(video_id="gone")):  # type: ignore[union-attr]
        result = decide(contestant(test), None, test, proof=evidence(test, contestant(test), recorded=recorded))
        assert refusing(result) == ["same_answers"]


@pytest.mark.parametrize(
    ("check", "clause"),
    [
        ("lineage_copies", "lineage"),
        ("package", "lineage"),
        ("weights", "weights"),
        ("metrics", "recorded_figures"),
        ("tables_agree", "audit"),
        ("a_check_of_tomorrow", "audit"),
    ],
)
@pytest.mark.parametrize("verdict", ["fail", "unknown"])
def test_a_failed_check_of_the_audit_refuses_by_its_clause(check: str, clause: str, verdict: Any) -> None:
    test = cohort()
    proof = evidence(test, contestant(test))
    spoilt = Check(name=check, verdict=verdict, object="this", expected="one", found="two")
    result = decide(contestant(test), None, test, proof=replace(proof, checks=[*proof.checks, spoilt]))
    assert refusing(result) == [clause]
    assert "this is two, not one" in named(result, clause).note


def test_an_audit_that_was_not_made_refuses() -> None:
    test = cohort()
    result = decide(contestant(test), None, test, proof=evidence(test, contestant(test), checks=[]))
    assert refusing(result) == ["lineage", "weights", "recorded_figures", "audit"]


@pytest.mark.parametrize("value", [None, math.nan, "0.9", "absent"])
def test_a_missing_metric_refuses(value: Any) -> None:
    test = cohort()
    figures = {name: found for name, found in FIGURES.items() if name != "ece"} | (
        {} if value == "absent" else {"ece": value}
    )
    result = decide(contestant(test), None, test, proof=evidence(test, contestant(test), figures=figures))
    assert refusing(result) == ["figures_complete"]
    assert "ece has no value" in named(result, "figures_complete").note


def test_floors_on_robustness_and_saliency_are_asked_where_they_are_set() -> None:
    test = cohort()
    asked = {"min_corrupted_accuracy": 0.7, "min_saliency_iou": 0.7, "min_pointing": 0.5}
    result = decide(contestant(test), None, test, **asked)
    assert verdicts(result)["corrupted_accuracy"] == "passed"
    assert refusing(result) == ["figures_complete", "saliency_iou", "pointing"], "nobody measured pointing"


def test_latency_and_memory_have_ceilings_and_must_be_measured() -> None:
    test = cohort()
    asked = {"max_latency_ms": 50.0, "max_memory_mib": 500.0}
    assert refusing(decide(contestant(test), None, test, **asked)) == ["latency", "memory"]
    proof = evidence(test, contestant(test), served=Served(latency_ms=20.0, memory_mib=900.0))
    assert refusing(decide(contestant(test), None, test, proof=proof, **asked)) == ["memory"]


@pytest.mark.parametrize("name", ["intended_use", "data", "limits"])
def test_an_empty_part_of_the_model_card_refuses(name: str) -> None:
    test = cohort()
    proof = evidence(test, contestant(test))
    result = decide(contestant(test), None, test, proof=replace(proof, card=dict(proof.card) | {name: "  "}))
    assert refusing(result) == ["model_card"]
    assert name in named(result, "model_card").note


# --- the envelope ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("envelope", "said"),
    [
        ({"sites": ["site-7"]}, "trained on the site site-0"),
        ({"domains": ["in-vivo"]}, "trained on the domain ex-vivo"),
        ({"frozen": ["train.encoder"]}, "train.encoder is frozen and went from resnet18 to compact"),
        ({"frozen": ["train.*"], "ranges": {"train.learning_rate": [0.003, 0.1]}}, "train.learning_rate is 0.002"),
        ({"frozen": ["train.arch"]}, "train.arch is frozen and names no recorded parameter"),
    ],
)
def test_a_change_outside_the_envelope_is_refused_with_its_evidence(envelope: dict[str, Any], said: str) -> None:
    test = cohort(patients=120)
    old = {"train": {"encoder": "resnet18", "learning_rate": 0.001}}
    result = decide(contestant(test), contestant(test, name="version 1", params=old), test, envelope=envelope)
    assert refusing(result) == ["envelope"]
    assert named(result, "envelope").note.startswith("Outside: ")
    assert said in named(result, "envelope").note


def test_a_range_opens_what_a_pattern_froze() -> None:
    test = cohort(patients=120)
    old = {"train": {"encoder": "compact", "learning_rate": 0.001}}
    envelope = {"frozen": ["train.*"], "ranges": {"train.learning_rate": [0.001, 0.005]}, "sites": ["site-0"]}
    result = decide(contestant(test), contestant(test, name="version 1", params=old), test, envelope=envelope)
    assert named(result, "envelope").note == "Inside. 1 parameters changed: train.learning_rate."


# --- the record of a decision ----------------------------------------------------------------------


def test_the_report_is_json_and_names_its_policy() -> None:
    test = cohort()
    found = decide(contestant(test), contestant(test, name="version 1"), test).as_json()
    other = decide(contestant(test), None, test, max_loss=0.5).as_json()
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert found["policy_sha256"] != other["policy_sha256"]
    assert {"name", "verdict", "value", "bound", "note"} <= set(found["clauses"][0])


def test_both_sides_have_their_figures_with_bounds() -> None:
    test = cohort(patients=40)
    found = gate.figures(contestant(test, wrong=1), test, policy())
    assert found["metrics"]["macro_f1"] == pytest.approx(0.9)
    for name in ("macro_f1", "balanced_accuracy"):
        low, high = found["intervals"][name]
        assert 0.7 < low < 0.9 < high <= 1.0
    assert found["reliability"][0]["confidence"] == pytest.approx(0.95)
    assert found["metrics"]["ece"] == pytest.approx(0.05)
    low, high = found["intervals"]["ece"]
    assert 0 <= low < 0.05 < high < 0.2


def test_subgroups_have_bounds_of_both_models() -> None:
    test = cohort(patients=40)
    groups = decide(contestant(test, wrong=1), contestant(test, wrong=2, name="version 1"), test).subgroups
    for group in groups:
        assert group.interval is not None
        assert group.champion_interval is not None
        assert group.interval[0] < 0.9 < group.interval[1], group
        assert group.champion_interval[0] < 0.8 < group.champion_interval[1], group


def test_a_subgroup_with_one_patient_of_a_class_has_no_bounds() -> None:
    test = cohort(patients=12)
    test.loc[0, "site"] = "elsewhere"
    alone = next(group for group in decide(contestant(test), None, test).subgroups if group.name == "elsewhere")
    assert (alone.patients, alone.interval) == (1, None)


# --- several seeds ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrongs", "verdict", "words"),
    [
        ((), "undecided", "2 more are asked"),
        ((1, 1), "passed", "Of 3 trainings"),
        ((1,), "undecided", "1 more is asked"),
        ((1, 4), "refused", "reaches macro-F1 0.600"),
        ((2, 2), "refused", "loses 0.100 against"),
    ],
)
def test_other_seeds_must_hold_floor_and_margin_too(wrongs: tuple[int, ...], verdict: str, words: str) -> None:
    test = cohort(patients=40)
    others = [contestant(test, wrong=wrong, name=f"version {n + 3}") for n, wrong in enumerate(wrongs)]
    mine, champion = contestant(test, wrong=1), contestant(test, wrong=1, name="version 1")
    result = gate.decide(
        policy(min_seeds=3),
        challenger=mine,
        champion=champion,
        test=test,
        evidence=evidence(test, mine),
        siblings=others,
    )
    assert named(result, "seeds").verdict == verdict
    assert words in named(result, "seeds").note


def test_only_the_seed_may_differ_and_each_counts_once() -> None:
    def record(seed: int, **changes: Any) -> dict[str, Any]:
        splits = {name: {"sha256": changes.get(name, name)} for name in ("train", "validation", "test")}
        params = {"train": {"seed": seed, "epochs": changes.get("epochs", 9)}, "extract": {"side_px": 96}}
        return {"params": params, "data": {"splits": splits}, "source_tar_sha256": changes.get("code", "c")}

    others = {
        "1": record(1),
        "2": record(2, epochs=8),
        "3": record(3, train="more"),
        "4": record(4, code="new"),
        "5": record(5, test="more"),
        "6": record(0),
        "7": record(1),
    }
    assert seeds.siblings(record(0), others) == ["7", "5"]


# --- one patient -----------------------------------------------------------------------------------


def test_the_patient_who_carries_the_answer_is_found() -> None:
    """The champion fails in one patient altogether; but for that one, the challenger is far behind."""
    test = cohort(patients=24)
    challenger = contestant(test, wrong=1, wrong_of=[f"v{n}" for n in range(1, 10)])
    champion = contestant(test, wrong=10, wrong_of=["v0"], name="version 1")
    found = decide(challenger, champion, test, max_loss=0.02).influence
    assert found is not None
    by_hand = {
        patient: decide(challenger, champion, test[test.patient_id != patient], max_loss=0.02)
        for patient in test.patient_id
    }
    for row in found.patients:
        again = by_hand[row.patient_id]
        assert row.lost == pytest.approx(named(again, "no_worse").value)
        assert row.macro_f1 == pytest.approx(named(again, "macro_f1").value)
        assert row.verdict == worst([named(again, "no_worse"), named(again, "macro_f1")])
    assert found.verdict == "undecided"
    assert [(row.patient_id, row.verdict) for row in found.patients if row.verdict != found.verdict] == [
        ("p0", "refused")
    ]


def test_without_one_of_two_patients_of_a_class_nothing_is_said() -> None:
    test = cohort(patients=4)
    found = decide(contestant(test), contestant(test, name="version 1"), test).influence
    assert found is not None
    assert {row.verdict for row in found.patients} == {None}
    assert decide(contestant(test.head(1)), None, test.head(1)).influence is None


def test_looks_at_a_test_set_count_versions_and_not_repetitions() -> None:
    def gated(seq: int, subject: str, name: str) -> Entry:
        data = {"test_sha256": name}
        return Entry(seq=seq, prev="", at="", actor="retrain", event="gated", subject=subject, data=data)

    one, other = looks.test_digest(["b", "a"]), looks.test_digest(["c"])
    assert one == looks.test_digest(["a", "b"])
    entries = [gated(1, "version 1", one), gated(2, "version 2", one), gated(3, "version 2", one)]
    entries += [gated(4, "version 3", other)]
    assert looks.count(entries, one, "version 2") == 2
    found = looks.as_json(entries, one, "version 4", most=2)
    assert (found["count"], found["warning"]) == (3, True)
