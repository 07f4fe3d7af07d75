"""The objective's settings and its ramp."""

import pytest

from lclsc import ObjectiveSettings, ramp


def test_the_ramp_is_flat_then_linear_then_flat():
    early = {"start": 0.05, "end": 0.2}
    assert [ramp(step, 100, **early) for step in (0, 4, 5)] == [0.0, 0.0, 0.0]
    assert ramp(12, 96, **early) == pytest.approx(0.5)  # 12.5 %: half way from 5 % to 20 %
    assert [ramp(step, 100, **early) for step in (20, 99, 1000)] == [1.0, 1.0, 1.0]


def test_the_ramp_never_falls():
    values = [ramp(step, 137, start=0.3, end=0.6) for step in range(137)]
    assert values == sorted(values)


def test_a_ramp_of_no_length_is_a_switch():
    assert [ramp(step, 10, start=0.5, end=0.5) for step in (0, 4, 5, 9)] == [0.0, 0.0, 1.0, 1.0]


def test_the_weight_is_lambda_times_the_ramp():
    assert ObjectiveSettings(lam=3.0).saliency_weight(60, 100) == 3.0
    assert ObjectiveSettings(lam=3.0).saliency_weight(45, 100) == pytest.approx(1.5)


@pytest.mark.parametrize(
    "wrong",
    [{"temperature": 0.0}, {"rho": 0.6}, {"delta": 1.5}, {"beta": -1.0}, {"lam": -1.0}, {"ramp_end": 0.01}],
)
def test_a_setting_out_of_range_is_refused_by_name(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        ObjectiveSettings(**wrong)


@pytest.mark.parametrize(
    "edge",
    [
        {"rho": 0.5},
        {"delta": 0.0},
        {"delta": 1.0},
        {"beta": 0.0},
        {"lam": 0.0},
        {"ramp_start": 0.0, "ramp_end": 0.0},
        {"ramp_start": 1.0, "ramp_end": 1.0},
    ],
)
def test_the_ends_of_a_range_are_allowed(edge):
    settings = ObjectiveSettings(**edge)
    assert {name: getattr(settings, name) for name in edge} == edge


@pytest.mark.parametrize("wrong", [{"rho": 0.0}, {"delta": -0.1}, {"ramp_start": -0.1}, {"ramp_end": 1.1}])
def test_beyond_the_other_end_is_refused_too(wrong):
    with pytest.raises(ValueError, match="ramp_end" if "ramp_start" in wrong else next(iter(wrong))):
        ObjectiveSettings(**wrong)


def test_an_unknown_consistency_is_refused():
    with pytest.raises(ValueError, match="consistency is 'l2'"):
        ObjectiveSettings(consistency="l2")
