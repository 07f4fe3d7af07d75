"""A seeded sample of the corpus; ``make hostile`` runs all of it."""

from __future__ import annotations

from pathlib import Path

from hostile import corpus, run


def test_each_of_a_sample_of_hostile_inputs_meets_its_fate(empty_workspace: Path, tmp_path: Path) -> None:
    outcomes, faults = run.take_in(tmp_path, sample=40, empty=empty_workspace)
    wrong = {outcome.case.name: outcome.fate for outcome in outcomes if not outcome.right}
    assert (wrong, faults) == ({}, [])
    assert len({outcome.case.family for outcome in outcomes}) >= 6


def test_the_corpus_is_large_and_its_names_are_unique(tmp_path: Path) -> None:
    cases = corpus.everything(tmp_path, tmp_path / "canary.mp4", 9)
    assert len(cases) >= 300
    assert len({case.name for case in cases}) == len(cases)
    assert len({case.path for case in cases}) == len(cases)


def test_a_wrong_fate_is_seen() -> None:
    (case,) = list(corpus._kinds(Path("canary")))[:1]
    assert not run.Outcome(case, "taken").right
    assert run.Outcome(case, "symlink").right
