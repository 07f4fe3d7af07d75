"""The clause on silence: a challenger must judge what the champion judges, or it is compared where it shines.

A package keeps or drops frames by a recipe of its own, so the two may judge different ones.
"""

from __future__ import annotations

from collections.abc import Iterator
from operator import itemgetter

import pandas as pd

from pipelines.gate import frames
from pipelines.gate.clause import ROUNDING, Clause
from pipelines.gate.contestant import Contestant
from pipelines.gate.subgroups import KINDS
from pipelines.params import PromoteParams


def clause(policy: PromoteParams, challenger: Contestant, champion: Contestant, test: pd.DataFrame) -> Clause:
    """``value``: the largest share of the champion's frames that the challenger does not judge.

    Of the classes both know: over all of them, and in each class, site and domain of enough patients.
    """
    mine, theirs = (frames.of_shared_classes(one, challenger, champion, test) for one in (challenger, champion))
    allowed = policy.max_unjudged
    if theirs.empty:
        note = "The champion judges no frame of a class that both know."
        return Clause(name="judged", verdict="refused", value=None, bound=allowed, note=note)
    silent = sorted(set(theirs.patient_id) - set(mine.patient_id))
    left_out, where = max(
        _left_out(policy, theirs.merge(mine[frames.FRAME], how="left", indicator="seen")), key=itemgetter(0)
    )
    note = f"It leaves out {left_out:.1%} of the frames that the champion judges{where}; {allowed:.1%} is allowed."
    if silent:
        told = ", ".join(silent[:3]) + (f" and {len(silent) - 3} more" if len(silent) > 3 else "")
        note = f"It judges no frame of the test patients {told}, whom the champion judges."
    held = not silent and left_out <= allowed + ROUNDING
    return Clause(name="judged", verdict="passed" if held else "refused", value=left_out, bound=allowed, note=note)


def _left_out(policy: PromoteParams, theirs: pd.DataFrame) -> Iterator[tuple[float, str]]:
    """Share and where, over all and in each subgroup."""
    lost = theirs.seen != "both"
    yield float(lost.mean()), ""
    for kind, column in KINDS.items():
        for name, group in theirs.groupby(column, sort=True):
            if group.patient_id.nunique() >= policy.subgroups.min_patients:
                yield float(lost[group.index].mean()), f" in {kind} {str(name) or 'unnamed'}"
