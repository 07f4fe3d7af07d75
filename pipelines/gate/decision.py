"""The decision: every clause of the policy, asked in order, and what they say together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import pandas as pd

from pipelines.gate import coverage, envelope, frames, influence, intervals, measured, quality, seeds, subgroups
from pipelines.gate import evidence as proof
from pipelines.gate.clause import Clause, Verdict, worst
from pipelines.gate.contestant import Contestant
from pipelines.gate.evidence import Evidence
from pipelines.gate.influence import Influence
from pipelines.gate.subgroups import Subgroup
from pipelines.params import PromoteParams


@dataclass(frozen=True, kw_only=True)
class GateResult:
    verdict: Verdict
    clauses: list[Clause]
    policy: dict[str, Any]
    policy_sha256: str
    challenger: str
    champion: str | None
    subgroups: list[Subgroup] = field(default_factory=list)
    influence: Influence | None = None

    @property
    def missing_patients(self) -> int | None:
        """How many more would decide, where all that is open is open for lack of them."""
        known = [clause.missing_patients for clause in self.clauses if clause.missing_patients]
        return max(known) if self.verdict == "undecided" and known else None

    def as_json(self) -> dict[str, Any]:
        """gate.json; ``policy_sha256`` says under which rules the verdict was reached."""
        return {"schema": "gate/1", **asdict(self), "missing_patients": self.missing_patients}


def decide(
    policy: PromoteParams,
    *,
    challenger: Contestant,
    champion: Contestant | None,
    test: pd.DataFrame,
    evidence: Evidence,
    siblings: Sequence[Contestant] = (),
) -> GateResult:
    """Judge by every clause. ``test`` lists the current test videos: video_id, patient_id, label, site, domain.

    ``siblings`` were trained as the challenger was, but for the seed.
    """
    groups = subgroups.table(policy, challenger, champion, test)
    clauses = list(_clauses(policy, challenger, champion, test, evidence, groups))
    if policy.min_seeds is not None:
        clauses.append(seeds.clause(policy, policy.min_seeds, [challenger, *siblings], champion, test))
    found = _result(policy, clauses, challenger.name, champion.name if champion else None)
    return replace(found, subgroups=groups, influence=influence.table(policy, challenger, champion, test))


def refuse(
    policy: PromoteParams, *, challenger: str, champion: str | None, cause: str, evidence: Evidence
) -> GateResult:
    """Of a package that does not load or cannot be scored: there is nothing else to judge."""
    clause = Clause(name="loads", verdict="refused", value=None, bound=None, note=cause)
    return _result(policy, [clause, *proof.of_checks(evidence.checks), proof.card(evidence.card)], challenger, champion)


def figures(one: Contestant, test: pd.DataFrame, policy: PromoteParams) -> dict[str, Any]:
    """What a reader compares side by side, over the frames that this model judges."""
    mine = frames.labelled(one, test)
    return {
        "metrics": {
            "macro_f1": frames.macro_f1(mine),
            "balanced_accuracy": frames.balanced_accuracy(mine),
            "ece": frames.ece(mine),
        },
        "intervals": intervals.of_figures(policy, mine),
        "reliability": frames.reliability(mine),
        "confusion": frames.confusion(mine),
    }


def _clauses(
    policy: PromoteParams,
    challenger: Contestant,
    champion: Contestant | None,
    test: pd.DataFrame,
    evidence: Evidence,
    groups: Sequence[Subgroup],
) -> Iterator[Clause]:
    yield from proof.clauses(policy, challenger, champion, test, evidence)
    if envelope.is_set(policy.envelope):
        yield envelope.clause(policy.envelope, challenger, champion, evidence.videos)
    yield from quality.alone(policy, frames.labelled(challenger, test), first=champion is None)
    if champion is not None:
        yield coverage.clause(policy, challenger, champion, test)
        yield quality.beside(policy, challenger, champion, test)
    yield from subgroups.floors(policy, groups)
    if champion is not None:
        yield from subgroups.losses(policy, groups, subgroups.of_both(challenger, champion, test))
    yield from measured.clauses(policy, evidence)


def _result(
    policy: PromoteParams,
    clauses: list[Clause],
    challenger: str,
    champion: str | None,
) -> GateResult:
    return GateResult(
        verdict=worst(clauses),
        clauses=clauses,
        policy=policy.model_dump(mode="json"),
        policy_sha256=policy.sha256,
        challenger=challenger,
        champion=champion,
    )
