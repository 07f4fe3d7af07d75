"""The page a reviewer opens after each retrain: one self-contained HTML file, no scripts, no network.

``gather`` collects the facts, ``build_page`` turns them into HTML. Same facts, same bytes.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from pipelines.report import decision, figures, results, words
from pipelines.report.facts import PageFacts, Pick, frames_to_show, gather
from pipelines.report.pairs import GAINED, LOST, SAME
from pipelines.report.sheet import Pair, Tile, png_bytes, tile_picture
from pipelines.report.words import plain

__all__ = ["PageFacts", "Pick", "build_page", "frames_to_show", "gather"]

ROWS_OPEN = 30
CHANGES = {"Gained: the champion was wrong": GAINED, "Lost: the champion was right": LOST, "Both right": SAME}


@dataclass(frozen=True)
class Picture:
    source: str
    alt: str
    caption: str
    state: str


def build_page(facts: PageFacts) -> str:
    """The whole page as HTML. Everything that came from data is escaped."""
    evaluation = facts.evaluation
    page = _environment().get_template("report.html.j2")
    return page.render(
        facts=facts,
        data=facts.data,
        verdict=decision.verdict(facts.gate),
        summary=_summary(facts),
        tiles=[results.tile(evaluation, name, note) for name, note in results.TILES.items()],
        levels=results.LEVELS.values(),
        by_level=results.by_level(evaluation),
        metrics=results.metric_rows(evaluation, results.others(evaluation["metrics"])),
        of_maps=results.metric_rows(evaluation, [name for name in results.OF_MAPS if name in evaluation["metrics"]]),
        corruptions=results.corruptions(evaluation),
        subgroups=evaluation.get("subgroups") or {},
        comparison=decision.comparison(facts.gate),
        clauses=[decision.clause(clause) for clause in (facts.gate or {}).get("clauses") or ()],
        rivals=decision.subgroups(facts.gate),
        looks=decision.looks(facts.gate),
        influence=decision.influence(facts.gate),
        changed=decision.changed(facts.changes),
        card=decision.card(facts.card),
        sides=_sides(facts.gate),
        pairs=_pairs(facts.pairs),
        per_class=evaluation.get("per_class") or {},
        patients=results.patients(evaluation),
        groups=results.groups(evaluation),
        rows_open=ROWS_OPEN,
        pictures=_pictures(facts.tiles),
        drawn=_figures(facts),
        lineage=_lineage(facts.lineage),
    )


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "number": words.number,
        "count": words.count,
        "duration": words.duration,
        "percent": words.percent,
        "tally": words.tally,
        "span": words.span,
    }
    return environment


def _summary(facts: PageFacts) -> str:
    """The state of things in one or two sentences."""
    rows = facts.evaluation.get("per_patient") or ()
    kept, patients = sum(row["kept"] for row in rows), len({row["patient_id"] for row in rows})
    seen = f"Scored on {words.count(kept)} kept frames of {patients} patients that no training has seen."
    clauses = (facts.gate or {}).get("clauses") or ()
    if not clauses:
        return seen
    return f"{decision.held(clauses)} {seen}"


def _pictures(tiles: Sequence[Tile]) -> dict[str, list[Picture]]:
    groups = {"Mistakes": False, "Right": True, "Without ground truth": None}
    return {
        title: [_picture(tile) for tile in tiles if tile.correct is state]
        for title, state in groups.items()
        if any(tile.correct is state for tile in tiles)
    }


def _picture(tile: Tile) -> Picture:
    state = {True: "right", False: "wrong", None: "unknown"}[tile.correct]
    encoded = base64.b64encode(png_bytes(tile_picture(tile))).decode("ascii")
    said = " ".join(tile.caption.split())
    return Picture(
        source=f"data:image/png;base64,{encoded}",
        alt=f"Frame above its saliency overlay: {said}" + (f" ({state})" if state != "unknown" else ""),
        caption=tile.caption,
        state=state,
    )


def _pairs(found: Sequence[Pair]) -> dict[str, list[tuple[Picture, Picture]]]:
    """Champion's and challenger's picture of each frame, under what became of it."""
    return {
        title: [(_picture(pair.before), _picture(pair.after)) for pair in found if pair.change == change]
        for title, change in CHANGES.items()
        if any(pair.change == change for pair in found)
    }


def _sides(gate: Mapping[str, Any] | None) -> list[tuple[str, Markup, Markup]]:
    """Heading, confusion matrix and reliability diagram of champion and challenger."""
    return [
        (
            title,
            Markup(figures.confusion_matrix(side["confusion"]["classes"], side["confusion"]["matrix"])),  # noqa: S704
            Markup(figures.reliability(side["reliability"])),  # noqa: S704 - figures escape every label
        )
        for title, side in decision.matrices(gate)
    ]


def _figures(facts: PageFacts) -> dict[str, Markup]:
    """Inline SVG by name; a figure without numbers is absent. The only markup that is not escaped again."""
    history = facts.training.get("history") or ()
    confusion = facts.evaluation.get("confusion") or {}
    patients = facts.evaluation.get("per_patient") or ()
    drawn = {}
    if history:
        drawn["losses"] = figures.loss_curves(history)
        drawn["validation"] = figures.validation_curves(history)
    if confusion.get("classes"):
        drawn["confusion"] = figures.confusion_matrix(confusion["classes"], confusion["matrix"])
    bins = (facts.evaluation.get("reliability") or {}).get("frames")
    if bins:
        drawn["reliability"] = figures.reliability(bins)
    selective = facts.evaluation.get("selective") or {}
    if selective.get("curve"):
        drawn["risk"] = figures.risk_coverage(selective["curve"], selective["reject"])
    if patients:
        drawn["patients"] = figures.patient_dots(patients)
    drawn |= _of_decision(facts.gate or {})
    return {name: Markup(svg) for name, svg in drawn.items()}  # noqa: S704 - figures escape every label


def _of_decision(gate: Mapping[str, Any]) -> dict[str, str]:
    drawn = {}
    if gate.get("champion") and gate.get("subgroups"):
        drawn["subgroups"] = figures.side_by_side(gate["subgroups"])
    if gate.get("influence"):
        drawn["influence"] = figures.left_out(gate["influence"]["patients"], gate["influence"]["verdict"])
    return drawn


def _lineage(record: Mapping[str, Any] | None) -> list[tuple[str, list[tuple[str, str]]]]:
    """Sections of the record: single values first, then each nested part flattened to dotted keys."""
    record = record or {}
    flat = [(key, plain(value)) for key, value in sorted(record.items()) if not _is_nested(value)]
    nested = [(key, _flatten(value)) for key, value in sorted(record.items()) if _is_nested(value)]
    return [("", flat), *nested] if flat else nested


def _flatten(value: Any, prefix: str = "") -> list[tuple[str, str]]:
    if not _is_nested(value):
        return [(prefix, plain(value))]
    items = value.items() if isinstance(value, Mapping) else enumerate(value)
    ordered = sorted(items, key=lambda item: item[0])
    return [row for key, inner in ordered for row in _flatten(inner, f"{prefix}.{key}" if prefix else str(key))]


def _is_nested(value: Any) -> bool:
    if isinstance(value, Mapping):
        return bool(value)
    return isinstance(value, (list, tuple)) and any(isinstance(item, (Mapping, list, tuple)) for item in value)
