from __future__ import annotations

import hashlib
import hmac
import re
from pathlib import Path

import pytest

from pipelines import identity
from pipelines.errors import WrongUseError


def test_a_pseudonym_is_keyed_stable_and_without_the_name() -> None:
    key = identity.create_key()
    pseudonym = key.pseudonym("Erika Mustermann 1964")
    assert pseudonym == identity.load_keys()[0].pseudonym("Erika Mustermann 1964")
    assert re.fullmatch(r"k[0-9a-f]{6}-[a-z2-7]{16}", pseudonym)
    expected = hmac.new(key.secret, b"patient\0Erika Mustermann 1964", hashlib.sha256).digest()
    assert pseudonym.split("-")[1].startswith(__import__("base64").b32encode(expected).decode().lower()[:16])


def test_a_key_file_is_readable_by_its_owner_alone() -> None:
    identity.create_key()
    assert identity.key_file().stat().st_mode & 0o777 == 0o600


def test_two_first_intakes_at_once_use_one_key() -> None:
    assert identity.create_key() == identity.create_key() == identity.load_keys()[0]


def test_an_empty_key_file_is_refused_with_what_to_do() -> None:
    identity.key_file().touch()
    with pytest.raises(WrongUseError, match="An empty one was never used: delete it"):
        identity.load_keys()


def test_a_secret_never_shows_in_a_log() -> None:
    key = identity.create_key()
    assert key.secret.hex() not in repr(key)


def test_no_new_key_is_made_for_a_workspace_with_patients() -> None:
    with pytest.raises(WrongUseError, match="not in"):
        identity.key_for("kabcdef", has_rows=True)
    assert not identity.key_file().exists()


def test_an_older_key_is_found_beside_the_current_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = identity.create_key()
    identity.key_file().rename(identity.key_file().with_name("2025.key"))
    new = identity.create_key()
    assert [key.key_id for key in identity.load_keys()] == [new.key_id, old.key_id]
    assert identity.key_for(old.key_id, has_rows=True) == old
