"""A small seeded part of ``make fuzz``."""

from __future__ import annotations

from pathlib import Path

import pytest

from hostile import fuzz


@pytest.mark.parametrize("reader", fuzz.READERS)
def test_readers_answer_or_raise_their_own_error(reader: str, tmp_path: Path) -> None:
    fates = {fuzz.READERS[reader](number, tmp_path) for number in range(300)}
    assert len(fates) > 1
