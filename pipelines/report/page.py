"""The page a reviewer opens after each retrain: one self-contained HTML file, no scripts, no network.

``gather`` collects the facts, ``build_page`` turns them into HTML. Same facts, same bytes.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import fmean
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from pipelines.report import figures
from pipelines.report.facts import PageFacts, Pick, frames_to_show, gather
from pipelines.report.sheet import Tile, png_bytes, tile_picture

__all__ = ["PageFacts", "Pick", "build_page", "frames_to_show", "gather"]

NONE = "–"
MINUS = "−"
THIN_SPACE = "\u202f"
ROWS_OPEN = 30
METRICS = {
    "macro_f1": "Macro-F1",
    "balanced_accuracy": "Balanced accuracy",
    "auroc": "AUROC",
    "ece": "Calibration error (ECE)",
    "saliency_iou": "Saliency IoU",
    "pointing": "Pointing game",
    "saliency_auc": "Saliency AUC",
    "insertion": "Insertion AUC",
    "deletion": "Deletion AUC",
    "average_drop": "Average drop",
    "confidence_increase": "Confidence increased",
    "corrupted_accuracy": "Accuracy on corrupted frames",
    "coverage": "Coverage",
    "rejected": "Rejected frames",
    "accepted_accuracy": "Accuracy of what is not rejected",
    "aurc": "Area under risk and coverage",
    "video_macro_f1": "Macro-F1, videos",
    "patient_macro_f1": "Macro-F1, patients",
}
BY_LEVEL = ("macro_f1", "balanced_accuracy", "auroc", "ece")
LEVELS = {"": "Frames", "video_": "Videos", "patient_": "Patients"}
OF_MAPS = {
    "saliency_iou": "overlap with the outlined structure, areas equal",
    "pointing": "peak inside the structure",
    "saliency_auc": "structure above the rest; chance is 0.5",
    "insertion": "probability while the salient pixels return to blurred tissue",
    "deletion": "probability while the salient pixels are blurred away; lower is better",
    "average_drop": "probability lost when only what is salient is shown; lower is better",
    "confidence_increase": "share of frames whose probability rises then",
}
LESS_IS_BETTER = {"ece", "video_ece", "patient_ece", "deletion", "average_drop", "aurc"}
NEITHER_IS_BETTER = {"coverage", "rejected"}
TILES = {
    "macro_f1": "frames of unseen patients",
    "balanced_accuracy": "mean recall of the classes",
    "saliency_iou": "overlap with ground truth",
    "pointing": "peak inside the structure",
    "ece": "lower is better",
    "coverage": "frames fit to be judged",
}
VERDICTS = {
    "passed": ("good", "✓", "Gate passed"),
    "refused": ("bad", "✕", "Gate refused"),
    "undecided": ("open", "?", "Gate undecided"),
}
UNGATED = ("none", NONE, "Not gated")


@dataclass(frozen=True)
class Figure:
    """A headline number; positions on its scale are in percent."""

    title: str
    value: str
    interval: str
    note: str
    at: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Group:
    """Unseen patients that share a class, a domain or a site."""

    name: str
    patients: int  # with a kept frame
    right: int  # of them, those whose mean probabilities name the right class
    accuracy: float | None  # mean over patients


@dataclass(frozen=True)
class Corrupted:
    """Accuracy under one corruption: the value and its background at each severity, and their mean."""

    name: str
    unit: str
    cells: tuple[tuple[float, str], ...]
    mean: float


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
        verdict=_verdict(facts.gate),
        summary=_summary(facts),
        tiles=[_tile(evaluation, name, note) for name, note in TILES.items()],
        by_level=_by_level(evaluation),
        metrics=_metric_rows(evaluation, _others(evaluation["metrics"])),
        of_maps=_metric_rows(evaluation, [name for name in OF_MAPS if name in evaluation["metrics"]]),
        corruptions=_corruptions(evaluation),
        subgroups=evaluation.get("subgroups") or {},
        comparison=_comparison(facts.gate),
        clauses=[_clause(clause) for clause in (facts.gate or {}).get("clauses") or ()],
        per_class=evaluation.get("per_class") or {},
        patients=_patients(evaluation),
        groups=_groups(evaluation),
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
        "number": number,
        "count": count,
        "duration": duration,
        "percent": percent,
        "tally": tally,
        "span": span,
    }
    return environment


def number(value: Any) -> str:
    """Three decimals; a dash where there is no value."""
    return NONE if not _is_finite(value) else f"{value:.3f}".replace("-", MINUS)


def count(value: int | None) -> str:
    return NONE if value is None else f"{value:,}".replace(",", THIN_SPACE)


def percent(share: float | None) -> str:
    return NONE if share is None else f"{100 * share:.0f}{THIN_SPACE}%"


def span(interval: Sequence[float] | None) -> str:
    return NONE if interval is None else _range(*interval)


def duration(seconds: float) -> str:
    whole = round(seconds)
    hours, minutes, rest = whole // 3600, whole % 3600 // 60, whole % 60
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{seconds:.1f} s"


def tally(counts: Mapping[str, int]) -> str:
    """in-vivo 3, ex-vivo 12"""
    return ", ".join(f"{name or 'unnamed'} {count(value)}" for name, value in counts.items()) or NONE


def _verdict(gate: Mapping[str, Any] | None) -> tuple[str, str, str]:
    if not gate:
        return UNGATED
    said = str(gate.get("verdict"))
    return VERDICTS.get(said, ("none", NONE, said))


def _summary(facts: PageFacts) -> str:
    """The state of things in one or two sentences."""
    rows = facts.evaluation.get("per_patient") or ()
    kept, patients = sum(row["kept"] for row in rows), len({row["patient_id"] for row in rows})
    seen = f"Scored on {count(kept)} kept frames of {patients} patients that no training has seen."
    clauses = (facts.gate or {}).get("clauses") or ()
    if not clauses:
        return seen
    held = sum(clause["verdict"] == "passed" for clause in clauses)
    return f"{held} of {len(clauses)} clauses of the gate hold. {seen}"


def _tile(evaluation: Mapping[str, Any], name: str, note: str) -> Figure:
    value = evaluation["metrics"].get(name)
    low, high = _interval(evaluation, name)
    on_scale = _is_finite(value) and name not in LESS_IS_BETTER
    return Figure(
        title=METRICS[name],
        value=number(value),
        interval=_range(low, high),
        note=note,
        at=_position(value) if on_scale else None,
        low=_position(low) if on_scale and low is not None else None,
        high=_position(high) if on_scale and high is not None else None,
    )


def _position(value: float) -> float:
    return round(100 * max(0.0, min(1.0, value)), 2)


def _interval(evaluation: Mapping[str, Any], name: str) -> tuple[float | None, float | None]:
    low, high = (evaluation.get("intervals") or {}).get(name) or (None, None)
    return (low, high) if _is_finite(low) and _is_finite(high) else (None, None)


def _range(low: float | None, high: float | None) -> str:
    return "" if low is None else f"{number(low)} – {number(high)}"


def _by_level(evaluation: Mapping[str, Any]) -> list[tuple[str, list[tuple[str, str]]]]:
    """The figures that exist of frames, videos and patients: value and interval of each."""
    metrics = evaluation["metrics"]
    return [
        (
            METRICS[name],
            [(number(metrics.get(prefix + name)), _range(*_interval(evaluation, prefix + name))) for prefix in LEVELS],
        )
        for name in BY_LEVEL
    ]


def _others(metrics: Mapping[str, Any]) -> list[str]:
    shown = {prefix + name for prefix in LEVELS for name in BY_LEVEL} | set(OF_MAPS)
    return [name for name in _ordered(metrics) if name not in shown]


def _metric_rows(evaluation: Mapping[str, Any], names: Sequence[str]) -> list[tuple[str, str, str, str]]:
    """Title, value, interval and a note."""
    metrics = evaluation["metrics"]
    return [
        (
            _title(name),
            number(metrics[name]),
            _range(*_interval(evaluation, name)) or NONE,
            OF_MAPS.get(name, ""),
        )
        for name in names
    ]


def _corruptions(evaluation: Mapping[str, Any]) -> list[Corrupted]:
    """How often sampled frames are still right, by kind and severity; the worst kind first."""
    found = evaluation.get("robustness") or {"kinds": {}}
    rows = [
        Corrupted(
            name=kind.replace("fov", "field of view").replace("_", " "),
            unit=row["unit"],
            cells=tuple((share, figures.shade(share)) for share in row["accuracy"]),
            mean=fmean(row["accuracy"]),
        )
        for kind, row in found["kinds"].items()
    ]
    return sorted(rows, key=lambda row: (row.mean, row.name))


def _ordered(*metrics: Mapping[str, Any]) -> list[str]:
    """Names in the project's order, strangers behind them by name."""
    found = {name for each in metrics for name in each}
    return [name for name in METRICS if name in found] + sorted(found - set(METRICS))


def _title(name: str) -> str:
    return METRICS.get(name, name)


def _comparison(gate: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Champion against challenger, metric by metric; None while there is no pair."""
    champion, challenger = (gate or {}).get("champion"), (gate or {}).get("challenger")
    if not champion or not challenger:
        return None
    old, new = champion.get("metrics") or {}, challenger.get("metrics") or {}
    return {
        "champion": champion.get("version", NONE),
        "challenger": challenger.get("version", NONE),
        "rows": [_compared(name, old.get(name), new.get(name)) for name in _ordered(old, new)],
    }


def _compared(name: str, old: Any, new: Any) -> dict[str, str]:
    row = {"title": _title(name), "old": number(old), "new": number(new), "difference": NONE, "state": "none"}
    if _is_finite(old) and _is_finite(new):
        change = new - old
        gain = -change if name in LESS_IS_BETTER else change
        row["difference"] = ("+" if round(change, 3) > 0 else "") + number(round(change, 3) + 0.0)
        if abs(change) >= 0.0005 and name not in NEITHER_IS_BETTER:
            row["state"] = "good" if gain > 0 else "bad"
    return row


def _clause(clause: Mapping[str, Any]) -> dict[str, str]:
    state, sign, _ = VERDICTS.get(str(clause["verdict"]), UNGATED)
    return {
        "name": _title(str(clause["name"])).replace("_", " "),
        "verdict": str(clause["verdict"]),
        "state": state,
        "sign": sign,
        "value": _plain(clause.get("value")),
        "bound": _plain(clause.get("bound")),
        "note": str(clause.get("note") or ""),
    }


def _patients(evaluation: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Worst first: what a reviewer should see before anything else. Without a kept frame: last."""
    return sorted(evaluation.get("per_patient") or (), key=_badness)


def _badness(row: Mapping[str, Any]) -> tuple[Any, ...]:
    accuracy = math.inf if row["accuracy"] is None else row["accuracy"]
    judged = row["predicted"] is not None
    return not judged, row["predicted"] == row["label"], accuracy, row["patient_id"], row["label"]


def _groups(evaluation: Mapping[str, Any]) -> list[tuple[str, list[Group]]]:
    """Unseen patients by what they share: a model may have learned a site instead of a tissue."""
    patients = evaluation.get("per_patient") or ()
    return [
        (title, [_group(name, patients, key) for name in sorted({str(row[key]) for row in patients})])
        for title, key in (("Class", "label"), ("Domain", "domain"), ("Site", "site"))
    ]


def _group(name: str, patients: Sequence[Mapping[str, Any]], key: str) -> Group:
    own = [row for row in patients if str(row[key]) == name]
    known = [row["accuracy"] for row in own if row["accuracy"] is not None]
    return Group(
        name=name or "unnamed",
        patients=sum(row["predicted"] is not None for row in own),
        right=sum(row["predicted"] == row["label"] for row in own),
        accuracy=fmean(known) if known else None,
    )


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
    return {name: Markup(svg) for name, svg in drawn.items()}  # noqa: S704 - figures escape every label


def _lineage(record: Mapping[str, Any] | None) -> list[tuple[str, list[tuple[str, str]]]]:
    """Sections of the record: single values first, then each nested part flattened to dotted keys."""
    record = record or {}
    flat = [(key, _plain(value)) for key, value in sorted(record.items()) if not _is_nested(value)]
    nested = [(key, _flatten(value)) for key, value in sorted(record.items()) if _is_nested(value)]
    return [("", flat), *nested] if flat else nested


def _flatten(value: Any, prefix: str = "") -> list[tuple[str, str]]:
    if not _is_nested(value):
        return [(prefix, _plain(value))]
    items = value.items() if isinstance(value, Mapping) else enumerate(value)
    ordered = sorted(items, key=lambda item: item[0])
    return [row for key, inner in ordered for row in _flatten(inner, f"{prefix}.{key}" if prefix else str(key))]


def _is_nested(value: Any) -> bool:
    if isinstance(value, Mapping):
        return bool(value)
    return isinstance(value, (list, tuple)) and any(isinstance(item, (Mapping, list, tuple)) for item in value)


def _plain(value: Any) -> str:
    match value:
        case None:
            return NONE
        case bool():
            return "yes" if value else "no"
        case float():
            return f"{value:.6g}".replace("-", MINUS) if math.isfinite(value) else NONE
        case list() | tuple():
            return ", ".join(map(_plain, value)) or NONE
        case Mapping():
            return NONE
        case _:
            return str(value)


def _is_finite(value: Any) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)
