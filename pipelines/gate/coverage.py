"""The clause on silence: a challenger must judge whom the champion judges, or it is compared where it shines.

A package keeps or drops frames by a recipe of its own, so the two may judge different ones.
"""

from __future__ import annotations

import pandas as pd

from pipelines.gate import frames
from pipelines.gate.clause import ROUNDING, Clause
from pipelines.gate.contestant import Contestant
from pipelines.params import PromoteParams


def clause(policy: PromoteParams, challenger: Contestant, champion: Contestant, test: pd.DataFrame) -> Clause:
    """``value``: share of the champion's frames, of the classes both know, that the challenger does not judge."""
    mine, theirs = (frames.of_shared_classes(one, challenger, champion, test) for one in (challenger, champion))
    silent = sorted(set(theirs.patient_id) - set(mine.patient_id))
    left_out = 1 - len(theirs.merge(mine[frames.FRAME])) / len(theirs) if len(theirs) else None
    allowed = policy.max_unjudged
    if left_out is None:
        note = "The champion judges no frame of a class that both know."
    elif silent:
        told = ", ".join(silent[:3]) + (f" and {len(silent) - 3} more" if len(silent) > 3 else "")
        note = f"It judges no frame of the test patients {told}, whom the champion judges."
    else:
        note = f"It leaves out {left_out:.1%} of the frames that the champion judges; {allowed:.1%} is allowed."
    held = left_out is not None and not silent and left_out <= allowed + ROUNDING
    return Clause(name="judged", verdict="passed" if held else "refused", value=left_out, bound=allowed, note=note)
