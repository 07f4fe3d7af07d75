"""What tests share: a missing capability is a failure where LCLSC_REQUIRE names it, a skip elsewhere."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable

import pytest

from pipelines import settings

settings.apply()


@pytest.fixture(scope="session")
def require() -> Callable[[str], str]:
    """The path of a program; skips with one clear line, or fails where the program is promised."""

    def path_of(program: str) -> str:
        found = shutil.which(program)
        if found is None and program in os.environ.get("LCLSC_REQUIRE", "").split(","):
            pytest.fail(f"{program} is promised by LCLSC_REQUIRE and missing")
        if found is None:
            pytest.skip(f"{program} is not installed")
        return found

    return path_of


@pytest.fixture(autouse=True)
def _own_key_file(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test touches the key that a person keeps in their configuration folder."""
    monkeypatch.setenv("LCLSC_KEY_FILE", str(tmp_path_factory.mktemp("keys") / "patients.key"))
