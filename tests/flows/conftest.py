"""Commands and flows set the environment of the outside systems; after each test it is as before."""

from __future__ import annotations

import os
from collections.abc import Iterator
from unittest import mock

import pytest
import receiver as receivers


@pytest.fixture(autouse=True)
def environment() -> Iterator[None]:
    with mock.patch.dict(os.environ):
        yield


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch) -> Iterator[receivers.Receiver]:
    with receivers.running() as server:
        monkeypatch.setenv("LCLSC_NOTIFY", server.address)
        monkeypatch.delenv("LCLSC_NOTIFY_BLOCK", raising=False)
        yield server
