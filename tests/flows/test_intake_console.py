from __future__ import annotations

import pytest

from flows import intake_console
from pipelines.intake.batch import IntakeReport
from pipelines.intake.incoming import RowError


def test_what_a_sender_wrote_cannot_act_on_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    value = "[/red]\x1b[2J\u202e\n[link=x]"
    error = RowError(row=2, column="label", value=value, code="label_invalid", message="is wrong")
    intake_console.show(IntakeReport(errors=[error]))
    shown = capsys.readouterr().out
    assert "\x1b[2J" not in shown
    assert "\u202e" not in shown
    assert "[/red]" in shown
