"""The gate: may this challenger take the champion's place?

Both packaged models are scored on the same current test patients. What cannot be judged refuses or waits: the
gate never passes a model for lack of numbers. ``judge`` gathers what is needed, ``decide`` is the policy alone.
"""

from pipelines.gate.clause import Clause, Verdict
from pipelines.gate.contestant import COLUMNS, Contestant, contestant, kept_scores, prepare, score_package
from pipelines.gate.decision import GateResult, decide, figures
from pipelines.gate.evidence import Evidence
from pipelines.gate.judge import judge

__all__ = [
    "COLUMNS",
    "Clause",
    "Contestant",
    "Evidence",
    "GateResult",
    "Verdict",
    "contestant",
    "decide",
    "figures",
    "judge",
    "kept_scores",
    "prepare",
    "score_package",
]
