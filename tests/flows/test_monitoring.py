"""What `lclsc monitor` prints below its table."""

from __future__ import annotations

import pytest

from flows import console, monitoring
from pipelines import params
from pipelines.drift import Finding
from pipelines.monitor import Against, MonitorReport, Source
from pipelines.workspace import template_file

CONDITION = "if clients name the case"


@pytest.mark.parametrize(
    ("source", "against", "is_conditional"),
    [("served", "own", True), ("served", "log", True), ("intake", "own", False)],
)
def test_few_false_alarms_are_promised_where_cases_are_known(
    source: Source, against: Against, is_conditional: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(console.out, "width", 200)
    steady = Finding(
        site="", figure="mean", test="U", p=0.5, p_adjusted=1.0, effect=0.5, before=1.0, now=1.0, alarm=False
    )
    report = MonitorReport(
        version="7",
        source=source,
        against=against,
        days=7.0,
        cases=20,
        reference_cases=40,
        params=params.load(template_file("params.yaml")).monitor,
        findings=[steady],
    )
    with console.out.capture() as told:
        monitoring._print(report)
    assert "at most 1 % of the looks" in told.get()
    assert (CONDITION in told.get()) == is_conditional
