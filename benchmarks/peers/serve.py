"""The child's side of a contest: one JSON request a line on stdin, one JSON answer a line on stdout.

Only the standard library: it runs in the peers' own environments. A script beside it ends in
``serve(measure)``, where ``measure(**case)`` answers a dict of numbers, usually with ``seconds``.
"""

import json
import os
import resource
import sys
import time
from collections.abc import Callable
from importlib import metadata

Numbers = dict[str, float]


def seconds_of(work: Callable[[], object]) -> float:
    """Wall-clock seconds of one call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def peak_bytes() -> float:
    """The largest resident size of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024.0


def versions(*packages: str) -> dict[str, str]:
    """The installed versions of those packages that are here."""
    return {name: metadata.version(name) for name in packages if _is_installed(name)}


def _is_installed(package: str) -> bool:
    return any(True for _ in metadata.distributions(name=package))


def serve(measure: Callable[..., Numbers]) -> None:
    """Answer requests until stdin ends. What libraries print goes to stderr, so that answers stay clean."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        try:
            answer: dict[str, object] = {"numbers": measure(**json.loads(line))}
        except Exception as error:  # the parent decides what a failure means
            answer = {"error": f"{type(error).__name__}: {error}"}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()
