from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from pipelines import split
from pipelines.params import SplitParams

PARAMS = SplitParams(validation=0.2, test=0.3, min_patients=2)
patients = st.dictionaries(st.text("abcdef0123", min_size=3, max_size=6), st.sampled_from("xyz").map(lambda s: {s}))


@given(first=patients, second=patients)
def test_a_new_patient_moves_nobody(first: dict[str, set[str]], second: dict[str, set[str]]) -> None:
    known = split.assign({}, first, {}, PARAMS)
    later = split.assign(known, first | second, {}, PARAMS)
    assert set(later) == set(second) - set(first)
    assert not set(later) & set(known)


@given(labels=patients)
def test_the_order_in_which_patients_are_given_does_not_matter(labels: dict[str, set[str]]) -> None:
    backwards = dict(reversed(labels.items()))
    assert split.assign({}, labels, {}, PARAMS) == split.assign({}, backwards, {}, PARAMS)


def test_every_class_is_shared_out_as_asked() -> None:
    labels = {f"{name}{number:02}": {name} for name in "ab" for number in range(20)}
    assigned = split.assign({}, labels, {}, PARAMS)
    for name in "ab":
        counts = Counter(assigned[patient] for patient in labels if patient.startswith(name))
        assert counts == {"train": 10, "test": 6, "validation": 4}


def test_six_patients_of_a_class_reach_every_split() -> None:
    assigned = split.assign({}, {f"p{number}": {"a"} for number in range(6)}, {}, PARAMS)
    assert Counter(assigned.values()) == {"train": 3, "test": 2, "validation": 1}


def test_a_wanted_split_is_kept() -> None:
    assert split.assign({}, {"p": {"a"}}, {"p": "test"}, PARAMS) == {"p": "test"}


def test_a_patient_with_two_classes_counts_for_the_rarer_one() -> None:
    assert split.rarest_label({"common", "rare"}, {"common": 9, "rare": 2}) == "rare"
