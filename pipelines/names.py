"""Names that somebody else gave a file: which of them are safe to follow, to show and to keep.

No name is ever run or glued into a command here. But names end up in tables, terminals and shells of people,
so one that would climb out, hide what it is or act when pasted is set aside, and its file stays where it is.
"""

from __future__ import annotations

import unicodedata
from pathlib import PurePosixPath

from pipelines.errors import VideoError

MAX_NAME_BYTES = 255  # of one part; what file systems hold
MAX_PATH_BYTES = 4000
COMMAND_SIGNS = frozenset('\\$`|;<>"*?')
FORMULA_SIGNS = "=+@"  # a spreadsheet runs cells that begin so
HIDING_CATEGORIES = frozenset({"Cf", "Cs", "Co", "Cn"})  # invisible, direction-changing, unassigned
BREAKING_CATEGORIES = frozenset({"Cc", "Zl", "Zp"})  # NUL, newlines, escapes

RENAME = "Rename the file and correct its row; it stays where it is until then."


def checked(path: str) -> str:
    """``path`` in its plain form. VideoError for a name that escapes, hides something or would run."""
    if fault := _fault(path):
        code, cause = fault
        raise VideoError(code, cause, RENAME)
    return PurePosixPath(path).as_posix()


def hides_or_breaks(text: str) -> bool:
    """Does a text hold signs that do not show, turn it round or break the line?"""
    return any(unicodedata.category(sign) in HIDING_CATEGORIES | BREAKING_CATEGORIES for sign in text)


def _fault(path: str) -> tuple[str, str] | None:
    categories = {unicodedata.category(sign) for sign in path}
    parts = PurePosixPath(path).parts
    if categories & BREAKING_CATEGORIES:
        return "name_control", "The name holds a control sign such as NUL, a newline or an escape."
    if categories & HIDING_CATEGORIES:
        return "name_hidden", "The name holds signs that do not show or that turn the text round."
    if PurePosixPath(path).is_absolute() or path[1:3] in (":\\", ":/"):
        return "name_absolute", "The name is absolute; a batch names files inside its own folder."
    if not parts:
        return "name_escapes", "The name is the batch's folder itself."
    if ".." in parts or ".." in path.split("\\") or path.startswith("~"):
        return "name_escapes", "The name leads out of the batch's folder."
    if len(path.encode()) > MAX_PATH_BYTES or any(len(part.encode()) > MAX_NAME_BYTES for part in parts):
        return "name_too_long", f"A part of the name is longer than {MAX_NAME_BYTES} bytes."
    if any(part.startswith("-") for part in parts):
        return "name_option", "A part of the name begins with a dash: programs take it for an option."
    if any(part[0] in FORMULA_SIGNS for part in parts):
        return "name_formula", "A part of the name begins like a spreadsheet formula."
    if COMMAND_SIGNS & set(path):
        return "name_command", 'The name holds one of \\ $ ` | ; < > " * ?, which shells act on.'
    return None
