"""The audit page: everything that failed is on it, nothing is claimed that was not checked, names cannot break it."""

from __future__ import annotations

import re
from html import unescape
from pathlib import Path

from pipelines.evidence import page
from pipelines.evidence.check import Check, verdict_of

NAMES = ["ledger_chain", "patients_disjoint", "tables_agree", "withdrawn"]


def report(*checks: Check) -> dict[str, object]:
    own = list(checks) or [Check(name=name, verdict="pass", object="everything") for name in NAMES]
    return {
        "schema": "audit/1",
        "verdict": verdict_of(own),
        "targets": ["version 3"],
        "sample": {"size": None, "seed": 0},
        "checks": [check.as_json() for check in own],
    }


def row(html: str, item: str) -> str:
    found = re.search(rf'<th scope="row">{re.escape(item)}</th>(.*?)</tr>', html, re.S)
    assert found, item
    return found[1]


def test_an_item_is_answered_only_when_all_its_checks_ran() -> None:
    html = page.build_page(report())
    assert "Pass" in row(html, "4 Test data are independent of training data")
    assert "Unknown" in row(html, "2 Good software engineering and security")
    assert "badge" not in row(html, "7 Performance of the human and the model together")


def test_a_failed_check_fails_every_item_that_rests_on_it() -> None:
    failed = Check(name="withdrawn", verdict="fail", object="patient k-1", expected="not withdrawn", found="used")
    html = page.build_page(report(failed))
    assert "Fail" in row(html, "10(5), GDPR: special categories, withdrawal of consent")
    assert "patient k-1" in html


def test_what_was_found_is_text_and_never_markup() -> None:
    wicked = "<script>alert(1)</script>"
    html = page.build_page(report(Check(name="clean", verdict="fail", object=wicked, expected="x", found=wicked)))
    assert "<script" not in html
    assert wicked in unescape(html)


def test_every_check_named_for_reviewers_is_one_that_an_audit_makes() -> None:
    sources = "".join(path.read_text() for path in Path(page.__file__).parent.glob("*.py"))
    for source in page._regulations():
        for item in source["items"]:
            assert item.get("checks") or item.get("person"), item
            for name in item.get("checks", []):
                assert re.search(rf'checked\(\s*"{name}"', sources), name
