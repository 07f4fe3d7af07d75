"""What may be served: never a version of which a damaged ledger cannot say whom it was made from."""

from __future__ import annotations

import pytest

from pipelines import ledger
from pipelines.errors import StageError
from pipelines.serving.candidate import Source
from pipelines.serving.terms import Terms
from pipelines.workspace import Workspace


def test_nothing_is_served_where_the_ledger_cannot_say_who_withdrew(judged: Workspace) -> None:
    source = Source(judged, Terms())
    assert source.fetch("1").version == "1"
    assert source.concern("1") is None
    ledger.append(judged, actor="test", event="withdrawn", subject="patient", data={"versions": 1})
    with pytest.raises(StageError, match="does not say what withdrawn must"):
        source.fetch("1")
    concern = source.concern("1")
    assert concern is not None
    assert "Restore ledger.jsonl" in concern
