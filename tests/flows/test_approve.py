"""The deployment ``approve``: what it asks for, and that its rules are those of ``lclsc approve``."""

from __future__ import annotations

from pathlib import Path

import pytest
from faults import promotions
from prefect.logging import disable_run_logger
from pydantic import ValidationError

from flows.approve import Decision, approve
from pipelines import alias_report
from pipelines.errors import PromotionError

WHO = {"by": " Dr. Ada Weber ", "reason": "better on the new site"}


@pytest.mark.parametrize(
    "wrong",
    [{"by": ""}, {"by": "  "}, {"reason": ""}, {"version": " "}, {"evidence": "short"}, {"gate": "off"}],
    ids=str,
)
def test_a_decision_without_its_words_does_not_start(wrong: dict[str, str]) -> None:
    with pytest.raises(ValidationError):
        Decision.model_validate(WHO | wrong)


def test_prefects_page_asks_for_each_word_and_says_what_it_is() -> None:
    asked = approve.parameters.model_dump()["definitions"]["Decision"]
    assert asked["required"] == ["by", "reason"]
    assert all(field["description"] for field in asked["properties"].values())


def test_the_challenger_becomes_champion_once_and_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'w' / 'mlflow.db'}")
    for name in ("PREFECT_HOME", "DVC_SITE_CACHE_DIR"):  # the flow sets them; they are put back
        monkeypatch.setenv(name, str(tmp_path / name))
    workspace = promotions.build(tmp_path / "w", versions=2)
    promotions.judge(workspace, "2")
    with disable_run_logger():
        with pytest.raises(PromotionError, match="judged again"):
            approve.fn(workspace.root, Decision(**WHO, evidence="0" * 8))
        first = approve.fn(workspace.root, Decision(**WHO))
        again = approve.fn(workspace.root, Decision(**WHO, version="2"))
    assert (first["status"], again["status"]) == ("approved", "champion_already")
    last = alias_report.run(workspace)
    assert last["aliases"] == {"champion": "2"}
    assert last["moves"][-1]["by"] == "Dr. Ada Weber"
