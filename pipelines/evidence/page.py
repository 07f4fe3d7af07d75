"""The audit as one HTML page that a reviewer can print: self-contained, no scripts, no network.

Same report, same bytes. What a check cannot answer is a box for a person to fill in by hand.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from pipelines.evidence.check import Check, Verdict, verdict_of

HERE = Path(__file__).parent
SIGNS = {"pass": "✓", "fail": "✕", "unknown": "?"}
WORDS = {"pass": "Pass", "fail": "Fail", "unknown": "Unknown"}


def build_page(report: dict[str, Any]) -> str:
    """``report`` is ``AuditReport.as_json()``."""
    checks = [Check(**check) for check in report["checks"]]
    return str(
        _template().render(
            report=report,
            groups=_groups(checks),
            problems=[check for check in checks if check.verdict != "pass"],
            regulations=[_answered(source, checks) for source in _regulations()],
            signs=SIGNS,
            words=WORDS,
        )
    )


def _groups(checks: Iterable[Check]) -> list[dict[str, Any]]:
    """One row a check's name: its verdict, and what it looked at."""
    named: dict[str, list[Check]] = {}
    for check in checks:
        named.setdefault(check.name, []).append(check)
    return [
        {"name": name, "verdict": verdict_of(own), "count": len(own), "of": _looked_at(own)}
        for name, own in named.items()
    ]


def _looked_at(own: list[Check]) -> str:
    """What passed, where a check has two parts; else the first finding."""
    passed = dict.fromkeys(check.object for check in own if check.verdict == "pass")
    return "; ".join(list(passed)[:2]) if len(passed) == len(own) else own[0].object


def _answered(source: dict[str, Any], checks: list[Check]) -> dict[str, Any]:
    items = [item | {"checks": item.get("checks", []), "verdict": _verdict(item, checks)} for item in source["items"]]
    return {"source": source["source"], "rows": items}


def _verdict(item: dict[str, Any], checks: list[Check]) -> Verdict | None:
    """What the machine says of an item; None where it has nothing to say, unknown where its checks did not run."""
    names = set(item.get("checks", []))
    if not names:
        return None
    asked = [check for check in checks if check.name in names]
    return verdict_of(asked) if {check.name for check in asked} == names else "unknown"


@cache
def _regulations() -> list[dict[str, Any]]:
    return list(yaml.safe_load((HERE / "regulations.yaml").read_text(encoding="utf-8")))


@cache
def _template() -> Any:
    loader = FileSystemLoader(HERE / "templates")
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template("audit.html.j2")
