"""What holds a secret shows a mask: in errors, their JSON, tracebacks, and lines of a stage's log."""

from __future__ import annotations

import pickle
import subprocess
import traceback
from pathlib import Path

import pytest

from pipelines import exchange
from pipelines.errors import LclscError, OutsideSystemError, unexpected
from pipelines.redaction import redact
from pipelines.workspace import Workspace


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://ada:pa55word@git.example/clinic.git failed", "https://***@git.example/clinic.git failed"),
        ("postgresql://u:p%40ss@/mlflow?host=/srv", "postgresql://***@/mlflow?host=/srv"),
        ("https://ghp_t0ken@git.example/clinic.git failed", "https://***@git.example/clinic.git failed"),
        ("ssh://git@git.example/clinic.git at 10:30", "ssh://git@git.example/clinic.git at 10:30"),
        ("s3://bucket/key, http://127.0.0.1:4200/api", "s3://bucket/key, http://127.0.0.1:4200/api"),
    ],
)
def test_an_address_keeps_its_host_and_loses_its_password(text: str, shown: str) -> None:
    assert redact(text) == shown


@pytest.mark.parametrize(
    "name",
    [
        "MLFLOW_TRACKING_PASSWORD",
        "PREFECT_API_AUTH_STRING",
        "AWS_SECRET_ACCESS_KEY",
        "PREFECT_API_KEY",
        "LCLSC_SERVE_TOKEN",
    ],
)
def test_the_value_of_a_secret_variable_is_shown_nowhere(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "hunter2-hunter2")
    error = unexpected(ValueError("401 for hunter2-hunter2"))
    told = [error.cause, str(error), repr(error), str(error.as_json()), *traceback.format_exception(error)]
    assert "hunter2" not in "".join(told)
    assert pickle.loads(pickle.dumps(error)).cause == error.cause


def test_a_notice_address_is_hidden_word_by_word(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LCLSC_NOTIFY", "slack://AAAA/BBBB/CCCC json://host/hook")
    assert redact("could not reach slack://AAAA/BBBB/CCCC") == "could not reach ***"


def test_git_tells_no_password_of_a_remote(workspace: Workspace, tmp_path: Path) -> None:
    address = "http://ada:pa55word@127.0.0.1:9/clinic.git"
    subprocess.run(["git", "remote", "add", "origin", address], cwd=workspace.root, check=True)
    with pytest.raises(OutsideSystemError) as caught:
        exchange.take_over(workspace)
    assert "git could not do `git fetch" in caught.value.cause
    assert "127.0.0.1:9" in caught.value.cause
    assert "pa55word" not in f"{caught.value} {caught.value.as_json()}"
    assert isinstance(caught.value, LclscError)
