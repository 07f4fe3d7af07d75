"""Notices reach a real receiver on this machine, and their address stays out of every log."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import time
from pathlib import Path
from typing import Any

import pytest
from receiver import Receiver

from flows import notices
from pipelines.errors import StageError
from pipelines.workspace import Workspace

REPORT: dict[str, Any] = {"version": "7", "aliases": [], "metrics": {"macro_f1": 0.91}}


@pytest.mark.parametrize(
    ("status", "aliases", "title"),
    [
        ("registered", ["challenger"], "lclsc: version 7 waits for approval"),
        ("up_to_date", ["challenger"], "lclsc: version 7 waits for approval"),  # what a killed retrain began
        ("registered", ["champion"], "lclsc: version 7 is registered"),
        ("refused", [], "lclsc: version 7 is refused"),
    ],
)
def test_what_became_of_a_retrain_is_told(receiver: Receiver, status: str, aliases: list[str], title: str) -> None:
    notices.of_retrain(REPORT | {"status": status, "aliases": aliases, "gate": {}}, "clinic")
    (got,) = receiver.got
    assert got["title"] == title
    assert "clinic" in got["message"]
    assert "0.910" in got["message"]


def test_a_retrain_with_nothing_to_do_tells_nobody(receiver: Receiver) -> None:
    notices.of_retrain(REPORT | {"status": "up_to_date"}, "clinic")
    assert receiver.got == []


def test_a_failure_tells_its_remedy_and_a_foreign_error_only_its_kind(receiver: Receiver) -> None:
    notices.of_failure("retrain", StageError("x", "Disk full.", "Free some."), "clinic")
    notices.of_failure("retrain", RuntimeError("Erika Mustermann"), "clinic")
    assert [got["message"] for got in receiver.got] == ["clinic: Disk full. Free some.", "clinic: RuntimeError"]
    assert {got["type"] for got in receiver.got} == {"failure"}


def test_a_full_disk_is_told_with_its_remedy_and_without_names(receiver: Receiver) -> None:
    notices.of_failure("intake", OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "Erika.mp4"), "clinic")
    (got,) = receiver.got
    assert "Free some space" in got["message"]
    assert "Erika" not in got["message"]


def test_trouble_that_stays_is_told_once_a_day(receiver: Receiver, tmp_path: Path) -> None:
    def run(error: Exception | None) -> None:
        with contextlib.suppress(StageError), notices.of_trouble("intake", Workspace(tmp_path)):
            if error:
                raise error

    full, away = StageError("disk", "Full.", "Free some."), StageError("share", "Away.", "Mount it.")
    for error in (full, full, away, None, away, away):
        run(error)
    assert [got["message"].split()[1] for got in receiver.got] == ["Full.", "Away."]  # gone for a while is not news
    for told in (0, time.time() + notices.DAY):  # long ago, or before the clock was set back
        os.utime(tmp_path / ".state" / "told" / "intake.json", (told, told))
        run(away)
        run(away)
    assert len(receiver.got) == 4


def test_trouble_that_nobody_heard_of_is_told_again(receiver: Receiver, tmp_path: Path) -> None:
    for status in (500, 500, 200, 200):
        receiver.status = status
        with contextlib.suppress(StageError), notices.of_trouble("intake", Workspace(tmp_path)):
            raise StageError("disk", "Full.", "Free some.")
    assert len(receiver.got) == 3


def test_one_address_of_two_is_enough_to_be_told(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LCLSC_NOTIFY", f"json://127.0.0.1:9/hook {receiver.address}")
    assert notices.send("drift", "drift", "clinic")


def test_an_address_that_cannot_be_reached_stops_nothing_and_is_not_shown(
    receiver: Receiver, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.DEBUG)
    receiver.status = 500
    assert not notices.send("drift", "drift", "clinic")
    monkeypatch.setenv("LCLSC_NOTIFY", "json://user:s3cret@127.0.0.1:9/hook nonsense://s3cret")
    assert not notices.send("drift", "drift", "clinic")
    assert "not reached" in caplog.text
    assert "s3cret" not in caplog.text


def test_without_an_address_nothing_is_sent(monkeypatch: pytest.MonkeyPatch, receiver: Receiver) -> None:
    monkeypatch.delenv("LCLSC_NOTIFY")
    assert notices.send("drift", "drift", "clinic")  # nothing is left to be told
    assert receiver.got == []


def test_drift_is_told_by_figure_and_steadiness_is_not(receiver: Receiver) -> None:
    findings = [
        {"figure": "mean", "alarm": True},
        {"figure": "mean", "alarm": True},
        {"figure": "grain", "alarm": False},
    ]
    report = {"version": "7", "cases": 20, "days": 7.0, "findings": findings}
    notices.of_drift(report, "clinic")
    notices.of_drift(report | {"findings": findings[2:]}, "clinic")
    (told,) = receiver.got
    assert told["title"] == "lclsc: version 7: drift"
    assert told["message"] == "clinic: mean in 20 cases of 7 days. See `lclsc monitor`."


def test_that_nothing_was_served_is_told_and_a_week_without_new_videos_is_none(receiver: Receiver) -> None:
    report = {"version": "7", "cases": 0, "days": 7.0, "findings": []}
    notices.of_drift(report | {"source": "intake"}, "clinic")
    notices.of_drift(report | {"source": "served"}, "clinic")
    (told,) = receiver.got
    assert told["title"] == "lclsc: version 7: nothing to look at"
    assert told["message"].startswith("clinic: no case of 7 days was served.")
