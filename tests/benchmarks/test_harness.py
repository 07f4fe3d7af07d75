"""The frame of the benchmarks: fair turns, honest medians, peers that fail are named."""

import json
import os
import sys
import time
from pathlib import Path

import pytest

import harness
from harness import (
    Child,
    InProcess,
    NotMeasuredError,
    Options,
    Race,
    Report,
    at_least,
    at_most,
    contest,
    figure,
    run_race,
)

QUICK = Options(quick=True)


def scripted(name: str, seconds: list[float], log: list[str]) -> InProcess:
    """A contestant that answers the given seconds, one after the other."""
    answers = iter(seconds)

    def measure(**_case: object) -> dict[str, float]:
        log.append(name)
        return {"seconds": next(answers)}

    return InProcess(name, measure)


def child(folder: Path, body: str, env: str | None = None) -> Child:
    script = folder / "contestant.py"
    script.write_text(f"from serve import serve\n\n\ndef measure(size):\n    {body}\n\n\nserve(measure)\n")
    return Child("child", str(script), env=env)


def test_contestants_take_turns_and_each_begins_in_its_turn():
    log: list[str] = []
    with contest(scripted("a", [0.0] * 3, log), scripted("b", [0.0] * 3, log)) as both:
        run_race(both, {}, rounds=2, warm_ups=1)
    assert "".join(log) == "ba" + "ab" + "ba"


def test_warm_ups_do_not_count():
    with contest(scripted("a", [99.0, 1.0, 3.0, 2.0], [])) as one:
        race = run_race(one, {}, rounds=3, warm_ups=1)
    assert race.median("a") == 2.0


def test_a_ratio_is_paired_by_round_so_a_slow_spell_of_the_machine_cancels():
    samples = {"a": [{"seconds": s} for s in (2.0, 20.0, 6.0)], "b": [{"seconds": s} for s in (1.0, 10.0, 2.0)]}
    assert Race(case={}, samples=samples, not_measured={}).ratio("a", "b") == 2.0


def test_a_yardstick_divides_each_side_by_its_own_plain_work():
    samples = {"a": [{"seconds": 6.0, "plain": 2.0}], "b": [{"seconds": 1.0, "plain": 1.0}]}
    assert Race(case={}, samples=samples, not_measured={}).ratio("a", "b", per="plain") == 3.0


def test_no_new_round_starts_after_the_deadline():
    with contest(scripted("a", [1.0] * 9, [])) as one:
        race = run_race(one, {}, rounds=8, options=Options(quick=True, deadline=time.monotonic() - 1))
    assert len(race.samples["a"]) == 1, "one round is always measured"


def test_a_child_answers_in_its_own_process_and_its_prints_do_no_harm(tmp_path):
    body = "import os; print('noise'); return {'pid': os.getpid(), 'double': 2 * size}"
    with contest(child(tmp_path, body)) as one:
        numbers = one[0].measure({"size": 21})
    assert numbers["double"] == 42
    assert numbers["pid"] != os.getpid()


def test_a_childs_own_arguments_go_with_every_case(tmp_path):
    ours = child(tmp_path, "return {'double': 2 * size}")
    ours.arguments = {"size": 4}
    with contest(ours) as one:
        assert one[0].measure({}) == {"double": 8}


def test_a_peer_that_fails_is_not_measured_with_its_reason_and_the_others_go_on(tmp_path, monkeypatch):
    monkeypatch.setattr(harness, "interpreter", lambda env: Path(sys.executable))
    with contest(child(tmp_path, "raise OSError('no such GPU')", env="peers"), scripted("a", [1.0] * 3, [])) as two:
        race = run_race(two, {"size": 1}, rounds=2)
    assert race.not_measured == {"child": "OSError: no such GPU"}
    assert (race.median("a"), race.median("child"), race.ratio("child", "a")) == (1.0, None, None)


def test_a_peer_that_dies_is_not_measured(tmp_path, monkeypatch):
    monkeypatch.setattr(harness, "interpreter", lambda env: Path(sys.executable))
    with contest(child(tmp_path, "import os; os._exit(3)", env="peers")) as one:
        race = run_race(one, {"size": 1}, rounds=1)
    assert race.not_measured == {"child": "its process ended with code 3"}


def test_our_own_failure_is_an_error_and_never_not_measured(tmp_path):
    with (
        contest(child(tmp_path, "raise OSError('broken')")) as one,
        pytest.raises(RuntimeError, match="child: OSError: broken"),
    ):
        run_race(one, {"size": 1}, rounds=1)


def test_an_environment_that_did_not_install_gives_pips_last_line(tmp_path, monkeypatch):
    monkeypatch.setattr(harness, "PEERS", tmp_path)
    with pytest.raises(NotMeasuredError, match="run make bench-deps"):
        harness.interpreter("absent")
    (tmp_path / "absent.log").write_text("Collecting\nERROR: No matching distribution\n")
    with pytest.raises(NotMeasuredError, match="ERROR: No matching distribution"):
        harness.interpreter("absent")


def test_claims_say_whether_they_hold_and_null_where_nothing_was_measured():
    claims = [at_least("a", 3.0, 3, "x"), at_least("a", 2.9, 3, "x"), at_most("b", 1.1, 1.05, "x")]
    assert [claim.holds for claim in claims] == [True, False, False]
    assert [at_least("a", None, 3, "x").holds, figure("c", 1.0, "s").holds] == [None, None]


def test_a_report_is_written_whole_and_a_quick_one_stays_out_of_the_results(tmp_path, capsys):
    report = Report("topic", QUICK, folder=tmp_path)
    report.add(Race(case={"size": 1}, samples={"a": [{"seconds": 1.0}]}, not_measured={"b": "gone"}))
    report.claim(at_least("speed", 4.0, 3, "x"))
    report.finish()
    assert [path.name for path in tmp_path.rglob("*.*")] == ["topic.json"]
    written = json.loads((tmp_path / "quick" / "topic.json").read_text())
    assert written["claims"] == [{"goal": ">= 3", "holds": True, "name": "speed", "unit": "x", "value": 4.0}]
    assert written["runs"][0]["contestants"]["a"]["seconds"] == {"median": 1.0, "min": 1.0, "max": 1.0, "rounds": 1}
    assert written["machine"]["cores"] >= 1
    assert "not measured: b: gone" in capsys.readouterr().out
