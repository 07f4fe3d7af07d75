"""The report's figures as inline SVG: text stays text, and the same numbers give the same bytes."""

from __future__ import annotations

import html
import io
import math
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import matplotlib
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

INK = "#1b2430"
MUTED = "#5b6673"
LINE = "#dde2e8"
BLUE = "#1d5f93"
RED = "#b8392f"
GUIDE = "#9aa4af"
LOSSES = {"total": INK, "lcl": BLUE, "sc": "#a8590b", "tk": "#7a4fa0"}
LOSS_TITLES = {
    "total": "total",
    "lcl": "label contrast",
    "sc": "saliency consistency",
    "tk": "top-k contrast",
}
WIDTH_PX = 430

STYLE = {
    "svg.fonttype": "none",
    "text.parse_math": False,  # a label may hold a dollar sign
    "font.size": 11.5,
    "text.color": INK,
    "axes.labelcolor": MUTED,
    "axes.edgecolor": LINE,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#eceff3",
    "grid.linewidth": 1.0,
    "xtick.color": LINE,
    "ytick.color": LINE,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "lines.linewidth": 1.8,
    "lines.solid_capstyle": "round",
    "figure.facecolor": "none",
    "axes.facecolor": "none",
}
NO_METADATA = {"Date": None, "Creator": None, "Format": None, "Type": None}


def confusion_matrix(classes: Sequence[str], matrix: Sequence[Sequence[int]]) -> str:
    """Counts, shaded by their share of the true class: blue where right, red where wrong."""
    count = len(classes)
    cell = max(30, min(76, 330 // max(count, 1)))

    def draw(axes: Any) -> None:
        axes.set(xlim=(0, count), ylim=(count, 0), xlabel="predicted", ylabel="true", aspect="equal")
        axes.grid(visible=False)
        axes.spines[:].set_visible(False)
        ticks = [place + 0.5 for place in range(count)]
        names = [_short(name, 16) for name in classes]
        tilt = 0 if max(map(len, names), default=0) * 6.4 < cell else 32
        axes.set_xticks(ticks, names, rotation=tilt, ha="right" if tilt else "center", rotation_mode="anchor")
        axes.set_yticks(ticks, names)
        axes.tick_params(length=0, labelcolor=INK)
        for row, counts in enumerate(matrix):
            for column, value in enumerate(counts):
                _cell(axes, row, column, value, sum(counts), cell)

    words = "; ".join(
        f"{name}: {counts[row]} of {sum(counts)} right"
        for row, (name, counts) in enumerate(zip(classes, matrix, strict=True))
    )
    return _drawn(draw, f"Confusion matrix of frames. {words}.", cell * count + 150, cell * count + 105)


def loss_curves(history: Sequence[Mapping[str, Any]]) -> str:
    """Every term of the loss over the epochs."""
    series = {LOSS_TITLES[key]: (colour, _values(history, key)) for key, colour in LOSSES.items()}

    def draw(axes: Any) -> None:
        _lines(axes, history, series)
        axes.set_ylim(bottom=0)
        axes.set_ylabel("loss")

    return _drawn(draw, f"Training loss by epoch. {_ends(series)}")


def validation_curves(history: Sequence[Mapping[str, Any]]) -> str:
    """Macro-F1 and calibration error of the validation patients over the epochs."""
    series = {
        "macro-F1": (BLUE, _values(history, "validation_macro_f1")),
        "ECE": ("#a8590b", _values(history, "validation_ece")),
    }

    def draw(axes: Any) -> None:
        _lines(axes, history, series)
        axes.set_ylim(0, 1.03)
        axes.set_ylabel("validation patients")

    return _drawn(draw, f"Validation by epoch. {_ends(series)}")


def reliability(bins: Sequence[Mapping[str, Any]]) -> str:
    """Accuracy against confidence of evaluate.json's bins; on the diagonal a probability means what it says."""
    most = max((item["count"] for item in bins), default=1)

    def draw(axes: Any) -> None:
        axes.plot([0, 1], [0, 1], color=GUIDE, linewidth=1, dashes=(4, 3))
        points = [(item["confidence"], item["accuracy"]) for item in bins]
        axes.plot(*zip(*points, strict=True), color=BLUE, linewidth=1.2, alpha=0.5)
        sizes = [18 + 150 * item["count"] / most for item in bins]
        axes.scatter(*zip(*points, strict=True), s=sizes, color=BLUE, alpha=0.85, linewidth=0, zorder=3)
        axes.set(xlim=(0, 1.04), ylim=(0, 1.04), xlabel="probability of the predicted class")
        axes.set_ylabel("share that was right")

    words = "; ".join(f"{item['confidence']:.2f}: {item['accuracy']:.2f} of {item['count']}" for item in bins)
    return _drawn(draw, f"Accuracy by confidence. {words}.", WIDTH_PX, 330)


def risk_coverage(curve: Sequence[Mapping[str, float]], reject: Mapping[str, Any]) -> str:
    """Errors among the surest answers against how many are given; a ring where the reject option stands."""
    everything = curve[-1]["risk"]
    top = max([*(point["risk"] for point in curve), reject.get("risk") or 0.0, 0.02]) * 1.15

    def draw(axes: Any) -> None:
        axes.axhline(everything, color=GUIDE, linewidth=1, dashes=(4, 3))
        axes.plot([point["coverage"] for point in curve], [point["risk"] for point in curve], color=BLUE)
        if reject.get("risk") is not None:
            ring = {"s": 70, "facecolor": "white", "edgecolor": RED, "linewidth": 2, "zorder": 3, "clip_on": False}
            axes.scatter([reject["coverage"]], [reject["risk"]], label="reject option", **ring)
            axes.legend(loc="upper left", frameon=False)
        axes.set(xlim=(0, 1.02), ylim=(0, top), xlabel="share of frames answered, surest first")
        axes.set_ylabel("share of them wrong")

    half = min(curve, key=lambda point: abs(point["coverage"] - 0.5))
    words = f"{half['risk']:.3f} wrong among the surest half, {everything:.3f} among all"
    if reject.get("risk") is not None:
        words += f"; the reject option answers {reject['coverage']:.2f} with {reject['risk']:.3f} wrong"
    return _drawn(draw, f"Errors by coverage. {words}.", WIDTH_PX, 330)


def patient_dots(patients: Sequence[Mapping[str, Any]]) -> str:
    """One mark per unseen patient at its share of right frames; a red cross where the verdict is wrong."""
    classes = sorted({str(patient["label"]) for patient in patients})
    height = 64 + 46 * len(classes)

    def draw(axes: Any) -> None:
        for right, style in ((True, {"marker": "o", "color": BLUE}), (False, {"marker": "X", "color": RED})):
            dots = [dot for dot in _swarm(patients, classes) if dot[2] is right]
            if dots:
                x, y, _ = zip(*dots, strict=True)
                axes.scatter(x, y, s=52, alpha=0.85, linewidth=0.8, edgecolor="white", zorder=3, **style)
        axes.set(
            xlim=(-0.02, 1.03),
            ylim=(len(classes) - 0.4, -0.6),
            xlabel="share of the patient's frames",
        )
        axes.set_yticks(range(len(classes)), [_short(name, 18) for name in classes])
        _without_frame(axes)

    wrong = sum(patient["predicted"] not in (None, patient["label"]) for patient in patients)
    people = len({patient["patient_id"] for patient in patients})
    return _drawn(draw, f"Accuracy of {people} unseen patients; {wrong} get another class.", WIDTH_PX, height)


def side_by_side(rows: Sequence[Mapping[str, Any]]) -> str:
    """F1 of champion (open) and challenger (filled) in each subgroup, with their intervals."""
    names = [f"{row['kind']} {row['name'] or 'unnamed'}" for row in rows]

    def draw(axes: Any) -> None:
        for shift, value, interval, style in (
            (-0.16, "champion", "champion_interval", {"color": MUTED, "markerfacecolor": "white", "label": "champion"}),
            (0.16, "value", "interval", {"color": BLUE, "label": "challenger"}),
        ):
            known = [(row[value], place + shift) for place, row in enumerate(rows) if row.get(value) is not None]
            spans = [(*row[interval], place + shift) for place, row in enumerate(rows) if row.get(interval)]
            for low, high, at in spans:
                axes.plot([low, high], [at, at], color=style["color"], linewidth=2.4, alpha=0.45)
            if known:
                axes.plot(*zip(*known, strict=True), linestyle="", marker="o", markersize=6.5, **style)
        axes.set(xlim=(-0.02, 1.03), ylim=(len(rows) - 0.5, -0.6), xlabel="F1")
        axes.set_yticks(range(len(rows)), [_short(name, 26) for name in names])
        _without_frame(axes)
        axes.legend(loc="lower left", bbox_to_anchor=(-0.02, 1.0), ncols=2, frameon=False, handlelength=1.2)

    told = (
        f"{name}: {_told(row.get('champion'))} and {_told(row.get('value'))}"
        for name, row in zip(names, rows, strict=True)
    )
    return _drawn(draw, f"F1 of champion and challenger by subgroup. {'; '.join(told)}.", 560, 78 + 34 * len(rows))


def left_out(rows: Sequence[Mapping[str, Any]], verdict: str) -> str:
    """One mark a patient: macro-F1 lost (reached, if there is no champion) without this one; red where it decides."""
    name = "lost" if all(row["lost"] is not None for row in rows) else "macro_f1"
    values = sorted((row[name], row["verdict"] in (None, verdict)) for row in rows)
    step = max(values[-1][0] - values[0][0], 1e-3) / 60
    taken: Counter[int] = Counter()

    def draw(axes: Any) -> None:
        for value, same in values:
            slot = round(value / step)
            style = {"marker": "o", "color": BLUE} if same else {"marker": "X", "color": RED}
            axes.scatter([value], [taken[slot]], s=44, alpha=0.85, linewidth=0.8, edgecolor="white", zorder=3, **style)
            taken[slot] += 1
        what = "macro-F1 lost against the champion" if name == "lost" else "macro-F1"
        axes.set(ylim=(-1, max(taken.values()) + 0.5), xlabel=f"{what}, without one patient")
        axes.set_yticks([])
        _without_frame(axes)

    deciding = sum(not same for _, same in values)
    words = f"from {values[0][0]:.3f} to {values[-1][0]:.3f}; {deciding} of {len(values)} patients decide alone"
    return _drawn(draw, f"Each patient left out once: {words}.", 560, 130)


def _without_frame(axes: Any) -> None:
    axes.tick_params(length=0)
    axes.tick_params(axis="y", labelcolor=INK)
    axes.spines[:].set_visible(False)


def _told(value: float | None) -> str:
    return "no value" if value is None else f"{value:.3f}"


def _cell(axes: Any, row: int, column: int, value: int, total: int, cell_px: int) -> None:
    share = value / total if total else 0.0
    fill = _mix(BLUE if row == column else RED, share**0.7)
    box = matplotlib.patches.Rectangle((column + 0.02, row + 0.02), 0.96, 0.96, facecolor=fill, linewidth=0)
    axes.add_patch(box)
    ink = "white" if share > 0.5 else INK if value else "#8a949f"
    size = 13 if cell_px > 50 else 10.5
    rise = 0.1 if cell_px > 50 and value else 0.0
    place = {"ha": "center", "va": "center_baseline"}
    axes.text(column + 0.5, row + 0.5 - rise, f"{value}", color=ink, fontsize=size, **place)
    if rise:
        axes.text(column + 0.5, row + 0.74, f"{100 * share:.0f} %", color=ink, fontsize=9.5, **place)


def shade(share: float) -> str:
    """A background for a share: nearly white at 1, ever redder below; ink stays readable on it."""
    return to_hex([1 - (1 - part) * min(1.0, 1 - share) ** 0.8 * 0.55 for part in to_rgb(RED)])


def _mix(colour: str, share: float) -> tuple[float, ...]:
    """From a pale grey at 0 to the colour at 1."""
    return tuple(pale + (full - pale) * share for pale, full in zip(to_rgb("#f1f3f6"), to_rgb(colour), strict=True))


def _values(history: Sequence[Mapping[str, Any]], key: str) -> list[float]:
    return [math.nan if epoch.get(key) is None else float(epoch[key]) for epoch in history]


def _lines(axes: Any, history: Sequence[Mapping[str, Any]], series: Mapping[str, tuple[str, list[float]]]) -> None:
    epochs = [int(epoch["epoch"]) for epoch in history]
    marker = {"marker": "o", "markersize": 3.5} if len(epochs) <= 30 else {}
    for name, (colour, values) in series.items():
        if any(map(math.isfinite, values)):
            axes.plot(epochs, values, color=colour, label=name, **marker)
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
    axes.tick_params(length=0)
    axes.spines["left"].set_visible(False)
    if axes.lines:
        axes.legend(
            loc="lower left",
            bbox_to_anchor=(-0.02, 1.0),
            ncols=2,
            frameon=False,
            handlelength=1.2,
            columnspacing=1.6,
        )


def _ends(series: Mapping[str, tuple[str, list[float]]]) -> str:
    """What a curve says to someone who cannot see it: where it starts and where it ends."""
    finite = {name: [v for v in values if math.isfinite(v)] for name, (_, values) in series.items()}
    return "; ".join(f"{name} from {v[0]:.3f} to {v[-1]:.3f}" for name, v in finite.items() if v) + "."


def _swarm(patients: Sequence[Mapping[str, Any]], classes: Sequence[str]) -> list[tuple[float, float, bool]]:
    """x, y, right; patients of equal accuracy stand side by side instead of on top of each other."""
    taken: Counter[tuple[str, int]] = Counter()
    dots = []
    for patient in sorted(patients, key=lambda row: (str(row["label"]), str(row["patient_id"]))):
        if patient["accuracy"] is None:
            continue
        label, accuracy = str(patient["label"]), float(patient["accuracy"])
        slot = (label, round(accuracy * 45))
        side = (taken[slot] + 1) // 2 * (1 if taken[slot] % 2 else -1)
        taken[slot] += 1
        offset = max(-0.42, min(0.42, 0.17 * side))
        dots.append((accuracy, classes.index(label) + offset, patient["predicted"] == patient["label"]))
    return dots


def _short(name: str, length: int) -> str:
    return name if len(name) <= length else name[: length - 1] + "…"


def _drawn(draw: Callable[[Any], None], label: str, width_px: int = WIDTH_PX, height_px: int = 270) -> str:
    # The label salts the ids inside, so that two figures on one page share none.
    with matplotlib.rc_context({**STYLE, "svg.hashsalt": label}):
        figure = Figure(figsize=(width_px / 72, height_px / 72), layout="constrained")
        draw(figure.subplots())
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata=NO_METADATA)
    return _inline(buffer.getvalue(), label, width_px)


def _inline(document: str, label: str, width_px: int) -> str:
    """The document's <svg> alone, fit for HTML: no prologue, no group names that would repeat."""
    body = document[document.index("<svg") :]
    box = re.search(r'viewBox="([^"]+)"', body)
    assert box is not None, "matplotlib wrote an SVG without a viewBox"
    inner = body[body.index(">") + 1 :].replace("xlink:href", "href")
    inner = re.sub(r'<g id="[^"]*"', "<g", inner)
    spoken = f'role="img" aria-label="{html.escape(label)}"'
    return f'<svg viewBox="{box[1]}" {spoken} style="max-width:{width_px}px">{inner.strip()}'
