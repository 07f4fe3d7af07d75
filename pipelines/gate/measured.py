"""Clauses on robustness, saliency and what the served model costs."""

from __future__ import annotations

from collections.abc import Iterator

from pipelines.gate import evidence as proof
from pipelines.gate.clause import Clause, at_least, at_most
from pipelines.gate.evidence import Evidence
from pipelines.params import PromoteParams

WORDS = {
    "corrupted_accuracy": "Accuracy on corrupted frames",
    "saliency_iou": "Overlap of saliency maps with masks",
    "pointing": "Share of saliency maps that peak inside the mask",
    "insertion": "Area under the insertion curve",
}


def clauses(policy: PromoteParams, evidence: Evidence) -> Iterator[Clause]:
    figures = evidence.figures or {}
    yield proof.figures_needed(policy, figures)
    for name, floor in proof.floors(policy).items():
        if floor is not None:
            yield at_least(name, WORDS[name], figures.get(name), floor)
    served = evidence.served
    if policy.max_latency_ms is not None:
        words = "95th percentile of one frame's milliseconds"
        yield at_most("latency", words, served.latency_ms if served else None, policy.max_latency_ms)
    if policy.max_memory_mib is not None:
        words = "Memory of the serving process in MiB"
        yield at_most("memory", words, served.memory_mib if served else None, policy.max_memory_mib)


def asked(policy: PromoteParams) -> bool:
    """Is there a reason to measure the served model? It costs some seconds."""
    return policy.max_latency_ms is not None or policy.max_memory_mib is not None
