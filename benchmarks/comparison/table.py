"""Cells to the table: figures pooled over seeds, intervals over patients, and the claims about them.

Seeds share their test patients: a draw of patients serves all seeds and all methods, so that differences of methods
are paired. Letters: D draws, P patients, K classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from comparison.baselines import METHODS, OURS
from harness import Claim
from pipelines import metrics

Cell = Mapping[str, Any]
DRAWS, CONFIDENCE, BOOTSTRAP_SEED = 2000, 0.95, 0
FROM_CONFUSION = {"macro_f1": metrics.macro_f1, "balanced_accuracy": metrics.balanced_accuracy}
COLUMNS = {
    "macro_f1": "macro-F1",
    "corruption": "accuracy, corrupted",
    "saliency_iou": "saliency IoU",
    "pointing": "pointing",
    "faithfulness": "insertion - deletion",
}
LEVELS, FIGURES = ("frame", "video", "patient"), ("macro_f1", "balanced_accuracy", "auroc", "ece")


@dataclass(frozen=True, kw_only=True, eq=False)
class Measured:
    """One figure of one method: its value and the values of the draws, both the mean over seeds."""

    value: float
    draws_D: NDArray[np.float64]

    def minus(self, other: Measured) -> Measured:
        return Measured(value=self.value - other.value, draws_D=self.draws_D - other.draws_D)

    @property
    def interval(self) -> list[float] | None:
        return metrics.interval(self.draws_D, CONFIDENCE)

    def record(self) -> dict[str, Any]:
        return {"value": self.value, "interval": self.interval}


def pooled(cells: Sequence[Cell], figure: str) -> Measured | None:
    """A figure of one method over its seeds; None where its cells do not have it."""
    if not cells or not (figure in FROM_CONFUSION or figure in cells[0]["patients"][0]["sums"]):
        return None
    weights_DP = draws(cells[0]["patients"])
    whole_1P = np.ones((1, weights_DP.shape[1]))
    values, drawn = [], []
    for cell in cells:
        values.append(float(_weighted(cell["patients"], figure, whole_1P)[0]))
        drawn.append(_weighted(cell["patients"], figure, weights_DP))
    return Measured(value=float(np.mean(values)), draws_D=np.mean(drawn, axis=0))


def draws(patients: Sequence[Mapping[str, Any]]) -> NDArray[np.float64]:
    """How often each patient is drawn, (D, P); patients of equal labels replace each other."""
    strata = [" ".join(map(str, patient["labels"])) for patient in patients]
    return metrics.patient_bootstrap(strata, draws=DRAWS, seed=BOOTSTRAP_SEED)


def _weighted(
    patients: Sequence[Mapping[str, Any]], figure: str, weights_DP: NDArray[np.float64]
) -> NDArray[np.float64]:
    """The figure where patient p counts weights[d, p] times, (D,)."""
    if figure in FROM_CONFUSION:
        matrices_PKK = np.array([patient["confusion"] for patient in patients], dtype=float)
        return FROM_CONFUSION[figure](np.einsum("dp,pij->dij", weights_DP, matrices_PKK))
    sums_P2 = np.array([patient["sums"][figure] for patient in patients])
    totals_D, counts_D = weights_DP @ sums_P2[:, 0], weights_DP @ sums_P2[:, 1]
    return np.divide(totals_D, counts_D, out=np.full(len(totals_D), np.nan), where=counts_D > 0)


def record(name: str, cells: Mapping[str, Sequence[Cell]], about: Mapping[str, Any]) -> dict[str, Any]:
    """One set's part of the JSON: every figure of every method that has a cell."""
    methods = {method: _method_record(own) for method, own in cells.items() if own}
    return {"set": name, **about, "methods": methods}


def _method_record(cells: Sequence[Cell]) -> dict[str, Any]:
    figures = (*FROM_CONFUSION, *cells[0]["patients"][0]["sums"])
    levels = {level: {name: _mean_of(cells, level, name) for name in FIGURES} for level in LEVELS}
    return {
        "seeds": [cell["seed"] for cell in cells],
        "levels": levels,
        "figures": {name: found.record() for name in figures if (found := pooled(cells, name))},
        "macro_f1_by_seed": [cell["levels"]["frame"]["macro_f1"] for cell in cells],
        "validation_macro_f1_by_seed": [cell["validation_macro_f1"] for cell in cells],
        "train_seconds": [cell["train_seconds"] for cell in cells],
    }


def _mean_of(cells: Sequence[Cell], level: str, name: str) -> float | None:
    values = [cell["levels"][level][name] for cell in cells]
    return None if None in values else float(np.mean(values))


def claims(name: str, cells: Mapping[str, Sequence[Cell]], figures: Sequence[str], seeds: int) -> list[Claim]:
    """LCL-SC less the best other method, figure by figure; open until every method has every seed."""
    complete = all(len(cells.get(method.name, ())) == seeds for method in METHODS)
    return [_claim(name, cells, figure, complete) for figure in figures]


def _claim(name: str, cells: Mapping[str, Sequence[Cell]], figure: str, complete: bool) -> Claim:
    label, goal = COLUMNS[figure], "> 0"
    found = {method: measured for method, own in cells.items() if (measured := pooled(own, figure))}
    if not complete or OURS not in found:
        return Claim(name=f"{name}: {OURS} first in {label}", value=None, unit="", goal=goal, holds=None)
    best = max((method for method in found if method != OURS), key=lambda method: found[method].value)
    lead = found[OURS].minus(found[best])
    low, high = lead.interval or (np.nan, np.nan)
    return Claim(
        name=f"{name}: {OURS} first in {label}; lead over {best}, {CONFIDENCE:.0%} interval {low:+.3f} to {high:+.3f}",
        value=lead.value,
        unit="",
        goal=goal,
        holds=lead.value > 0,
    )


def rows(cells: Mapping[str, Sequence[Cell]]) -> tuple[list[str], list[list[str]]]:
    """Head and body of the table that people read."""
    shown = [figure for figure in COLUMNS if any(pooled(own, figure) for own in cells.values())]
    head = ["method", "seeds", *(COLUMNS[figure] for figure in shown), "AUROC", "ECE", "patients' macro-F1"]
    return head, [_row(method, own, shown) for method, own in cells.items()]


def _row(method: str, cells: Sequence[Cell], shown: Sequence[str]) -> list[str]:
    if not cells:
        return [method, "0", *["not measured"] * (len(shown) + 3)]
    levels = (("frame", "auroc"), ("frame", "ece"), ("patient", "macro_f1"))
    means = (_mean_of(cells, level, name) for level, name in levels)
    return [
        method,
        str(len(cells)),
        *(_shown(pooled(cells, figure)) for figure in shown),
        *("-" if mean is None else f"{mean:.3f}" for mean in means),
    ]


def _shown(measured: Measured | None) -> str:
    if measured is None:
        return "-"
    low, high = measured.interval or (np.nan, np.nan)
    return f"{measured.value:.3f} ({low:.3f} to {high:.3f})"


def rich_table(title: str, cells: Mapping[str, Sequence[Cell]]) -> Table:
    head, body = rows(cells)
    table = Table(*head, title=title)
    for row in body:
        table.add_row(*row)
    return table


def markdown(cells: Mapping[str, Sequence[Cell]]) -> str:
    """The same table for the docs."""
    head, body = rows(cells)
    return "\n".join(f"| {' | '.join(line)} |" for line in (head, ["---"] * len(head), *body))
