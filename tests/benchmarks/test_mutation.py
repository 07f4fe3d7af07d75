"""Mutants: one change each, none where no behaviour is, and an outcome that is read from the tests."""

import os
import time
from pathlib import Path

import pytest

import mutation

SOURCE = '''"""Text 1."""

@dataclass(frozen=True)
class Box:
    side: Literal[1] = 2

def area(side: int, *, half: bool = False) -> int:
    if side < 0 and not half:
        raise ValueError(f"{side + 1} is below {0}")
    return (side & side) * -side if half else side.clamp_min(0.5)
'''


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(mutation, "ROOT", tmp_path)
    path = tmp_path / "module.py"
    path.write_text(SOURCE)
    return path


def changes(path: Path) -> set[tuple[str, str]]:
    mutants = [mutation.mutant_at(*place) for place in mutation.places_of(path)]
    return {(mutant.before, mutant.after) for mutant in mutants}


def test_signs_counts_comparisons_constants_and_masks_are_changed_one_at_a_time(module):
    assert changes(module) == {
        ("2", "3"),
        ("False", "True"),
        ("side < 0 and (not half)", "side < 0 or not half"),
        ("side < 0", "side <= 0"),
        ("0", "1"),
        ("not half", "not not half"),
        ("(side & side) * -side", "(side & side) / -side"),
        ("side & side", "side | side"),
        ("-side", "+side"),
        ("side.clamp_min", "side.clamp_max"),
        ("0.5", "1.0"),
    }


def test_decorators_annotations_and_messages_are_left_alone(module):
    text = " ".join(before for before, _ in changes(module))
    assert "True" not in text, "frozen"
    assert "side + 1" not in text, "a message"
    assert all("Literal[1]" in mutation.mutant_at(*place).source for place in mutation.places_of(module))


def test_a_mutant_is_named_by_its_statement_so_that_a_moved_line_keeps_its_name(module):
    names = {mutation.mutant_at(*place).name for place in mutation.places_of(module)}
    assert "module.py: side: Literal[1] = 2: 2 -> 3" in names
    assert "module.py: if side < 0 and (not half):: side < 0 -> side <= 0" in names


def test_a_modules_own_tests_come_first_and_those_of_many_processes_last():
    tests = mutation.tests_of("lclsc/label_contrast.py")
    assert tests[0] == "tests/lclsc/test_label_contrast.py"
    assert tests[-1] == "tests/distributed/test_ranks.py"
    assert "tests/lclsc/test_step.py" in tests


@pytest.mark.parametrize(("code", "outcome"), [(0, "survived"), (1, "killed"), (2, "killed")])
def test_an_outcome_is_what_the_tests_say(code, outcome):
    child = os.fork()
    if child == 0:
        os._exit(code)
    assert mutation._outcome(child) == outcome


def test_a_mutant_that_runs_out_of_time_is_ended_and_not_called_killed(monkeypatch):
    monkeypatch.setattr(mutation, "TIMEOUT_SECONDS", 0.3)
    child = os.fork()
    if child == 0:
        os.setsid()
        time.sleep(60)
        os._exit(0)
    assert mutation._outcome(child) == "timeout"
