"""Clauses on every class, site and domain: a model that is better on the whole may be worse for some."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

import pandas as pd

from pipelines.gate import frames, intervals
from pipelines.gate.clause import ROUNDING, Clause, Verdict
from pipelines.gate.contestant import Contestant
from pipelines.gate.intervals import Interval
from pipelines.params import PromoteParams

Key = tuple[str, str]  # kind and name
KINDS = {"class": "label", "site": "site", "domain": "domain"}


@dataclass(frozen=True, kw_only=True)
class Subgroup:
    """``value`` is F1 of a class, macro-F1 of a site or domain; ``champion``, ``lost``: over the frames both judge.

    ``interval`` is of ``value``, ``champion_interval`` of ``champion``.
    """

    kind: str
    name: str
    patients: int
    frames: int
    value: float | None
    champion: float | None = None
    lost: float | None = None
    interval: Interval = None
    champion_interval: Interval = None

    @property
    def key(self) -> Key:
        return self.kind, self.name


def table(
    policy: PromoteParams, challenger: Contestant, champion: Contestant | None, test: pd.DataFrame
) -> list[Subgroup]:
    """Every subgroup that the test videos, or the challenger's classes, have."""
    mine = frames.labelled(challenger, test)
    pair = frames.shared(challenger, champion, test) if champion else None
    return [
        _subgroup(policy, kind, name, mine, pair)
        for kind, column in KINDS.items()
        for name in sorted(set(test[column]) | (set(challenger.classes) if kind == "class" else set()))
    ]


def floors(policy: PromoteParams, found: Sequence[Subgroup]) -> Iterator[Clause]:
    """One clause for each kind of subgroup that the policy sets a floor for."""
    asked = {
        "class": policy.subgroups.min_class_f1,
        "site": policy.subgroups.min_site_macro_f1,
        "domain": policy.subgroups.min_domain_macro_f1,
    }
    for kind, floor in asked.items():
        if floor is not None:
            yield _floor(policy, [group for group in found if group.kind == kind], kind, floor)


def losses(policy: PromoteParams, found: Sequence[Subgroup], of_both: Collection[Key]) -> Iterator[Clause]:
    """Against the champion, in every subgroup ``of_both``: one that cannot be compared refuses."""
    if policy.subgroups.max_loss is not None:
        yield _losses(policy, [group for group in found if group.key in of_both], policy.subgroups.max_loss)


def of_both(challenger: Contestant, champion: Contestant, test: pd.DataFrame) -> set[Key]:
    """Subgroups of which the champion judges a frame, of a class that both know: where it is silent nothing is lost."""
    judged = frames.of_shared_classes(champion, challenger, champion, test)
    return {(kind, str(name)) for kind, column in KINDS.items() for name in judged[column].unique()}


def _subgroup(
    policy: PromoteParams,
    kind: str,
    name: str,
    mine: pd.DataFrame,
    pair: tuple[pd.DataFrame, pd.DataFrame] | None,
) -> Subgroup:
    own = mine[mine[KINDS[kind]] == name]
    before = after = None
    if pair is not None:
        after, before = (_value(kind, name, one) for one in pair)
    return Subgroup(
        kind=kind,
        name=name,
        patients=int(own.patient_id.nunique()),
        frames=len(own),
        value=_value(kind, name, mine),
        champion=before,
        lost=None if before is None or after is None else before - after,
        interval=_interval(policy, kind, name, mine),
        champion_interval=_interval(policy, kind, name, pair[1]) if pair else None,
    )


def _value(kind: str, name: str, one: pd.DataFrame) -> float | None:
    return frames.class_f1(one, name) if kind == "class" else frames.macro_f1(one[one[KINDS[kind]] == name])


def _interval(policy: PromoteParams, kind: str, name: str, one: pd.DataFrame) -> Interval:
    if kind == "class":
        return intervals.class_f1(policy, one, name)
    return intervals.macro_f1(policy, one[one[KINDS[kind]] == name])


def _floor(policy: PromoteParams, found: Sequence[Subgroup], kind: str, floor: float) -> Clause:
    figure = "F1" if kind == "class" else "macro-F1"
    empty = [f"{kind} {group.name or 'unnamed'} cannot be judged" for group in found if not group.frames]
    below = [group for group in found if group.value is not None and group.value < floor - ROUNDING]
    words = [f"{figure} of {_name(group)} is {group.value:.3f}" for group in below]
    values = [group.value for group in found if group.value is not None]
    return _answer(
        policy,
        f"{kind}_floor",
        value=min(values) if values and not empty else None,
        bound=floor,
        empty=empty if found else [f"there is no {kind}"],
        failing=dict(zip(words, below, strict=True)),
        good=f"{figure} of every {kind} is at least {min(values, default=0):.3f}; {floor:.3f} is asked.",
    )


def _losses(policy: PromoteParams, found: Sequence[Subgroup], ceiling: float) -> Clause:
    unknown = [f"{_name(group)} cannot be compared" for group in found if group.lost is None]
    over = [group for group in found if group.lost is not None and group.lost > ceiling + ROUNDING]
    words = [f"{_name(group)} falls from {group.champion:.3f} by {group.lost:.3f}" for group in over]
    most = max((group.lost for group in found if group.lost is not None), default=None)
    return _answer(
        policy,
        "subgroup_loss",
        value=None if unknown else most,
        bound=ceiling,
        empty=unknown if found else ["the two models share no subgroup"],
        failing=dict(zip(words, over, strict=True)),
        good=f"No class, site or domain loses more than {ceiling:.3f} against the champion.",
    )


def _answer(
    policy: PromoteParams,
    name: str,
    *,
    value: float | None,
    bound: float,
    empty: Sequence[str],
    failing: dict[str, Subgroup],
    good: str,
) -> Clause:
    """Refused by an empty subgroup or a failing one of enough patients; undecided where failing ones are small."""
    least = policy.subgroups.min_patients
    missing = sum(max(0, least - group.patients) for group in failing.values())
    verdict: Verdict = "passed"
    if empty or any(group.patients >= least for group in failing.values()):
        verdict, missing = "refused", 0
    elif failing:
        verdict = "undecided"
    told = "; ".join([*empty, *failing])
    note = f"{told[:1].upper()}{told[1:]}; the bound is {bound:.3f}" if told else good.removesuffix(".")
    more = f"; {missing} more patients there would decide" if missing else ""
    return Clause(
        name=name, verdict=verdict, value=value, bound=bound, note=f"{note}{more}.", missing_patients=missing or None
    )


def _name(group: Subgroup) -> str:
    return f"{group.kind} {group.name or 'unnamed'} ({group.patients} patients)"
