"""One question an audit asks, and its answer: pass, fail, or unknown, which never counts as pass."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import Literal

import yaml

from pipelines.errors import LclscError

Verdict = Literal["pass", "fail", "unknown"]
DAMAGE = (
    LclscError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    ArithmeticError,
    RecursionError,
    OSError,
    csv.Error,
    yaml.YAMLError,
)
"""What reading a file raises that is not what its writer left."""


@dataclass(frozen=True, kw_only=True)
class Check:
    """``object`` is what was looked at; ``expected`` and ``found`` say what it should have been and is."""

    name: str
    verdict: Verdict
    object: str
    expected: str = ""
    found: str = ""

    def as_json(self) -> dict[str, str]:
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class Problem:
    """An object that is not as expected; ``unknown`` where it could not be looked at."""

    object: str
    expected: str
    found: str
    unknown: bool = False


def checked(name: str, of: str, problems: Iterable[Problem]) -> Iterator[Check]:
    """One failed or unknown check a problem; a single pass over ``of`` when there is none."""
    found = [
        Check(
            name=name,
            verdict="unknown" if problem.unknown else "fail",
            object=problem.object,
            expected=problem.expected,
            found=problem.found,
        )
        for problem in problems
    ]
    yield from found or [Check(name=name, verdict="pass", object=of)]


def differing(object: str, expected: object, found: object) -> Iterator[Problem]:
    """A problem where two values are not equal."""
    if expected != found:
        yield Problem(object=object, expected=shown(expected), found=shown(found))


def unless_moving(problems: Iterable[Problem], moving: Callable[[], bool]) -> list[Problem]:
    """What differs while somebody writes, or since they did, may be in the making: unknown. Asked after all is read."""
    found = list(problems)
    return [replace(problem, unknown=True) for problem in found] if found and moving() else found


def guarded(name: str, of: str, checks: Iterable[Check]) -> Iterator[Check]:
    """The checks, and a failed one instead of an exception: evidence that cannot be read proves nothing."""
    try:
        yield from checks
    except DAMAGE as error:
        cause = error.cause if isinstance(error, LclscError) else f"{type(error).__name__}: {error}"
        yield Check(name=name, verdict="fail", object=of, expected="readable", found=cause)


def shown(value: object) -> str:
    return "missing" if value is None else str(value)


def verdict_of(checks: Iterable[Check]) -> Verdict:
    """``fail`` if any failed, else ``unknown`` if any is, else ``pass``; nothing checked is unknown."""
    verdicts = {check.verdict for check in checks}
    if "fail" in verdicts:
        return "fail"
    return "pass" if verdicts == {"pass"} else "unknown"
