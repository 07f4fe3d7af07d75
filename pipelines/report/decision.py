"""The decision as the page shows it: clauses, champion beside challenger, looks, what changed, model card."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipelines.report import results
from pipelines.report.words import NONE, between, count, is_finite, number, plain

VERDICTS = {
    "passed": ("good", "✓", "Gate passed"),
    "refused": ("bad", "✕", "Gate refused"),
    "undecided": ("open", "?", "Gate undecided"),
}
UNGATED = ("none", NONE, "Not gated")
CARD = {"intended_use": "Intended use", "data": "Data", "limits": "Limits", "contact": "Contact"}
OPTIONAL = frozenset({"contact"})
ROWS_OF_CHANGES = 40
CARRIERS = 3
DIGEST = re.compile("[0-9a-f]{32,}")


@dataclass(frozen=True)
class Stated:
    """One part of the model card; ``state`` is bad where a part that must be stated is empty."""

    title: str
    text: str
    state: str


def verdict(gate: Mapping[str, Any] | None) -> tuple[str, str, str]:
    if not gate:
        return UNGATED
    said = str(gate.get("verdict"))
    return VERDICTS.get(said, ("none", NONE, said))


def clause(found: Mapping[str, Any]) -> dict[str, str]:
    state, sign, _ = VERDICTS.get(str(found["verdict"]), UNGATED)
    return {
        "name": results.title_of(str(found["name"])).replace("_", " "),
        "verdict": str(found["verdict"]),
        "state": state,
        "sign": sign,
        "value": _short_number(found.get("value")),
        "bound": _short_number(found.get("bound")),
        "note": str(found.get("note") or ""),
    }


def comparison(gate: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Champion against challenger, metric by metric; None while there is no pair."""
    champion, challenger = (gate or {}).get("champion"), (gate or {}).get("challenger")
    if not champion or not challenger:
        return None
    old, new = champion.get("metrics") or {}, challenger.get("metrics") or {}
    return {
        "champion": champion.get("version", NONE),
        "challenger": challenger.get("version", NONE),
        "rows": [
            results.compared(name, old.get(name), new.get(name))
            | {"old_interval": _interval(champion, name), "new_interval": _interval(challenger, name)}
            for name in results.ordered(old, new)
        ],
    }


def subgroups(gate: Mapping[str, Any] | None) -> list[dict[str, str]]:
    """Classes, sites and domains beside the champion, the greatest loss first."""
    found = (gate or {}).get("subgroups") or ()
    return [
        {
            "kind": str(row["kind"]),
            "name": str(row["name"]) or "unnamed",
            "champion": number(row.get("champion")),
            "champion_interval": _span(row.get("champion_interval")),
            "challenger": number(row.get("value")),
            "interval": _span(row.get("interval")),
            "difference": _signed(row.get("lost")),
            "state": _state(row.get("lost")),
            "patients": count(row["patients"]),
            "frames": count(row["frames"]),
        }
        for row in sorted(found, key=lambda row: -row["lost"] if is_finite(row.get("lost")) else 1.0)
    ]


def influence(gate: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Would the clauses on macro-F1 say something else without one of the patients?"""
    found = (gate or {}).get("influence")
    if not found:
        return None
    rows = found["patients"]
    unknown = sum(row["verdict"] is None for row in rows)
    carriers = [row for row in rows if row["verdict"] not in (None, found["verdict"])]
    told = [f"Without {row['patient_id']} it is {row['verdict']}." for row in carriers[:CARRIERS]]
    if len(carriers) > CARRIERS:
        told.append(f"Without {len(carriers) - CARRIERS} others too it is not {found['verdict']}.")
    if unknown:
        told.append(f"Without {unknown} of {len(rows)} it cannot be told: a class would have one patient left.")
    return {
        "carried": bool(carriers),
        "verdict": found["verdict"],
        "patients": len(rows),
        "text": " ".join(told),
    }


def looks(gate: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """How often these test videos have judged, and whether that is too often."""
    found = (gate or {}).get("looks")
    if not found or "count" not in found:
        return None
    versions = "version" if found["count"] == 1 else "versions"
    return {
        "text": f"{found['count']} {versions} judged on these test videos; the policy warns above {found['most']}.",
        "warning": bool(found["warning"]),
    }


def changed(diff: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """What is new since the champion: counts of data in words, and a row for each parameter, code or package."""
    if diff is None:
        return None
    rows = [
        {"what": title, "key": str(row["key"]), "old": _short(row["from"]), "new": _short(row["to"])}
        for title, part in (("parameter", "params"), ("environment", "environment"), ("code", "code"))
        for row in diff[part]
    ]
    videos, patients = diff["videos"], diff["patients"]
    return {
        "from": diff["from"]["name"],
        "data": [
            f"{count(len(group))} {noun if len(group) == 1 else noun + 's'} {how}"
            for noun, part, hows in (
                ("video", videos, ("added", "removed", "changed")),
                ("patient", patients, ("added", "removed", "moved")),
            )
            for how in hows
            if (group := part[how])
        ],
        "rows": rows[:ROWS_OF_CHANGES],
        "more": max(0, len(rows) - ROWS_OF_CHANGES),
    }


def card(stated: Mapping[str, str]) -> list[Stated]:
    """What a reader must know before using the model; none where no card was handed over."""
    if not stated:
        return []
    parts = [(title, str(stated.get(name) or "").strip(), name) for name, title in CARD.items()]
    return [
        Stated(title, text or ("not stated" if name in OPTIONAL else "missing: the gate refuses it"), _of(text, name))
        for title, text, name in parts
    ]


def matrices(gate: Mapping[str, Any] | None) -> list[tuple[str, Mapping[str, Any]]]:
    """Of champion and challenger: heading and figures of those that have a confusion matrix."""
    sides = [(name, (gate or {}).get(name)) for name in ("champion", "challenger")]
    if any(not side or not side.get("confusion") for _, side in sides):
        return []
    return [(f"{name.capitalize()} · version {side['version']}", side) for name, side in sides if side]


def held(clauses: Sequence[Mapping[str, Any]]) -> str:
    passed = sum(one["verdict"] == "passed" for one in clauses)
    return f"{passed} of {len(clauses)} clauses of the gate hold."


def _short(value: Any) -> str:
    """A digest by its beginning."""
    text = plain(value)
    return f"{text[:12]}…" if DIGEST.fullmatch(text) else text


def _interval(side: Mapping[str, Any], name: str) -> str:
    low, high = (side.get("intervals") or {}).get(name) or (None, None)
    return between(low, high) if is_finite(low) and is_finite(high) else ""


def _short_number(value: Any) -> str:
    """A count as it is, anything else with three decimals."""
    return number(value) if is_finite(value) and not float(value).is_integer() else plain(value)


def _span(interval: Sequence[float] | None) -> str:
    return between(*interval) if interval else ""


def _signed(lost: float | None) -> str:
    """What was gained, with its sign."""
    if not is_finite(lost):
        return NONE
    gain = round(-float(lost or 0), 3) + 0.0
    return ("+" if gain > 0 else "") + number(gain)


def _state(lost: float | None) -> str:
    if lost is None or abs(lost) < 0.0005:
        return "none"
    return "bad" if lost > 0 else "good"


def _of(text: str, name: str) -> str:
    return "none" if text or name in OPTIONAL else "bad"
