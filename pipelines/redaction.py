"""Secrets stay out of what is shown, logged, or kept: passwords in addresses, and values of secret variables.

Other tools put them into their messages: git the address of a remote, an HTTP client the one it could not reach.
"""

from __future__ import annotations

import os
import re

IN_ADDRESS = re.compile(r"(?:(?<=://)[^\s/@:]*:[^\s@]*|(?<=https://)[^\s/@:]+|(?<=http://)[^\s/@:]+)(?=@)")
"""``user:password`` before the host of an address; over HTTP a user name alone may be a token."""

SECRET_NAME = re.compile(r"PASSWORD|SECRET|TOKEN|AUTH_STRING|ACCESS_KEY|API_KEY|NOTIFY$")
"""Of an environment variable whose value is nobody's business."""

MASK = "***"
SHORTEST = 6  # characters; a shorter value would blank out ordinary words


def redact(text: str) -> str:
    """``text`` without any secret that this process knows of."""
    for value in _secrets():
        text = text.replace(value, MASK)
    return IN_ADDRESS.sub(MASK, text)


def _secrets() -> list[str]:
    """Longest first: one may be a part of another."""
    values = (value for name, value in os.environ.items() if SECRET_NAME.search(name))
    words = {word for value in values for word in (value, *value.split()) if len(word) >= SHORTEST}
    return sorted(words, key=len, reverse=True)
