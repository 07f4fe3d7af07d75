"""The errors a person sees: what happened, why, and what to do about it."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator
from typing import Any

from pipelines.redaction import redact


class LclscError(Exception):
    """A failure with a cause and a remedy.

    ``code`` is snake_case and stable (machines match on it); ``transient`` says that the same call may
    succeed later; ``exit_code`` is 1 for a finding, 2 for wrong use, 3 for a failure of an outside system.
    """

    exit_code = 3

    def __init__(self, code: str, cause: str, remedy: str, *, transient: bool = False) -> None:
        self.code = code
        self.cause = redact(cause)
        self.remedy = redact(remedy)
        super().__init__(f"{self.cause} {self.remedy}")
        self.transient = transient

    def __reduce__(self) -> tuple[Any, ...]:
        # The default would call __init__ with one argument when the error crosses a process border.
        return _rebuild, (type(self), self.code, self.cause, self.remedy, self.transient)

    def as_json(self) -> dict[str, Any]:
        return {"code": self.code, "cause": self.cause, "remedy": self.remedy, "transient": self.transient}


def _rebuild(kind: type[LclscError], code: str, cause: str, remedy: str, transient: bool) -> LclscError:
    return kind(code, cause, remedy, transient=transient)


class WrongUseError(LclscError):
    """What a person typed or set cannot be done."""

    exit_code = 2


class ParameterError(WrongUseError):
    """params.yaml holds a value, or lacks a key, that a stage cannot work with."""


class StageError(LclscError):
    """A stage could not turn its inputs into its outputs."""


class VideoError(StageError):
    """One video cannot be read. Never names a patient or a source path, only what is wrong with the bytes."""

    exit_code = 1


class PromotionError(LclscError):
    """A move of an alias that the rules, or what happened meanwhile, do not allow. Nothing was moved."""

    exit_code = 1


class OutsideSystemError(LclscError):
    """git, DVC, Ray, MLflow or Prefect did not do what was asked."""


class StoreUnreachableError(OutsideSystemError):
    """An object store cannot be asked: whether it holds an object is unknown."""


def store_unreachable(store: str, why: str) -> StoreUnreachableError:
    return StoreUnreachableError(
        "store_unreachable",
        f"The object store {store} cannot be asked: {why.rstrip('.')}.",
        "See that its disk is mounted or its server answers, and that .dvc/config names it right; then try again.",
        transient=True,
    )


@contextlib.contextmanager
def asking(store: str) -> Iterator[None]:
    """Whatever a client raises (each has errors of its own) becomes one error that names the store."""
    try:
        yield
    except Exception as error:
        raise store_unreachable(store, str(error) or type(error).__name__) from error


OF_THE_DISK = {
    errno.EROFS: (
        "read_only",
        "Make the folder writable, or work on a copy: `audit` and `history` need no more than read.",
    ),
    errno.EACCES: ("no_access", "Give this account the right to it, or run as the one that has."),
    errno.ENOSPC: ("disk_full", "Free some space (`lclsc gc --workspace W`), then run the command again: it goes on."),
    errno.EDQUOT: ("disk_full", "Free some of the quota, then run the command again: it goes on."),
}
"""What a disk refuses, and what helps."""


def unexpected(error: Exception) -> OutsideSystemError:
    """What nobody foresaw, in the shape of what was; automation must not take it for a finding."""
    if isinstance(error, OSError) and error.errno in OF_THE_DISK:
        code, remedy = OF_THE_DISK[error.errno]
        return OutsideSystemError(code, f"{error.strerror}: {error.filename or 'a file'}.", remedy)
    return OutsideSystemError(
        "unexpected",
        f"{type(error).__name__}: {error}",
        "Run the command again with --debug to see where; if it is a full disk or a server, mend that first.",
    )
