"""Pseudonyms of patients: keyed, stable, and never to be turned back without the key.

A pseudonym is ``<key_id>-<16 base32 characters of HMAC-SHA256(key, raw id)>``. The key lives outside the
workspace, in ``LCLSC_KEY_FILE`` or one file per user in the configuration folder (mode 0600). Other ``*.key``
files beside it are older keys: known patients are looked up under all of them, so rotation moves nobody.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import secrets
import unicodedata
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import platformdirs

from pipelines.errors import WrongUseError
from pipelines.files import write_once

PUBLISHED_TEST_KEY_ID = "kdemo"


@dataclass(frozen=True)
class Key:
    key_id: str
    secret: bytes

    def __repr__(self) -> str:
        return f"Key({self.key_id})"

    def pseudonym(self, raw_patient_id: str) -> str:
        # One person, however the sender's system spells an umlaut: composed and decomposed are one id.
        spelled = unicodedata.normalize("NFC", raw_patient_id.strip())
        return f"{self.key_id}-{self.hmac(spelled, 'patient')[:16]}"

    def hmac(self, value: str, purpose: str) -> str:
        """Base32 HMAC-SHA256 of a value, separated by what it is for."""
        mac = hmac.new(self.secret, f"{purpose}\0{value}".encode(), hashlib.sha256)
        return base64.b32encode(mac.digest()).decode().lower().rstrip("=")


def key_file() -> Path:
    named = os.environ.get("LCLSC_KEY_FILE")
    return Path(named) if named else Path(platformdirs.user_config_dir("lclsc")) / "patients.key"


def load_keys() -> list[Key]:
    """The current key first, then older ones beside it (``*.key``, sorted by name)."""
    path = key_file()
    if not path.exists():
        return []
    older = sorted(other for other in path.parent.glob("*.key") if other != path)
    return [_read(file) for file in (path, *older)]


def create_key() -> Key:
    """Mint a key where none exists; of two who do so at once, both get the first one's."""
    path = key_file()
    secret = secrets.token_bytes(32)
    write_once(path, f"k{hashlib.sha256(secret).hexdigest()[:6]} {secret.hex()}\n".encode())
    return _read(path)


def key_for(recorded_key_id: str | None, *, has_rows: bool) -> Key:
    """The key this workspace's pseudonyms are made with.

    A workspace that has patients keeps its key: another one, or a new one, would make two people of one.
    """
    keys = load_keys()
    if not has_rows:
        return keys[0] if keys else create_key()
    for key in keys:
        if key.key_id == recorded_key_id:
            return key
    raise WrongUseError(
        "wrong_key",
        f"The pseudonyms of this workspace were made with the key {recorded_key_id},"
        f" which is not in {key_file().parent}.",
        "Restore that key file, or name it with LCLSC_KEY_FILE. No new key is made for a workspace with patients.",
    )


def known_pseudonym(raw_patient_id: str, known: Collection[str]) -> str:
    """The pseudonym that a patient of this workspace has, under any held key."""
    candidates = [key.pseudonym(raw_patient_id) for key in load_keys()]
    found = next((candidate for candidate in candidates if candidate in known), None)
    if found is None:
        raise WrongUseError(
            "unknown_patient",
            "No patient of this workspace has that id under a key that is held here.",
            "Check the id's spelling, and that LCLSC_KEY_FILE names the workspace's key.",
        )
    return found


def _read(path: Path) -> Key:
    try:
        key_id, secret = path.read_text().split()
        return Key(key_id, bytes.fromhex(secret))
    except ValueError:
        remedy = "It holds one line, `<key_id> <hex>`: restore it. An empty one was never used: delete it."
        raise WrongUseError("bad_key", f"{path} is not a key file.", remedy) from None
