"""The prediction log: one row a frame that a served model looked at, for the monitor.

Figures and hashes: no picture, no name of a file, nothing that names a patient. Rows gather in memory and go to a new
Parquet part every interval, whole or not at all; a killed server loses at most one interval. N frames, K classes.
"""

from __future__ import annotations

import atexit
import contextlib
import hmac
import logging
import os
import re
import secrets
import threading
import time
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipelines import schemas
from pipelines.errors import WrongUseError
from pipelines.files import temporary_name
from pipelines.workspace import private_folder

if TYPE_CHECKING:  # the front door names this module's settings and must not load torch
    from pipelines.inference import Prediction
    from pipelines.video.quality import Quality

log = logging.getLogger(__name__)

FOLDER, VERSION, SECONDS = "LCLSC_SERVE_LOG", "LCLSC_SERVE_VERSION", "LCLSC_SERVE_LOG_SECONDS"
INTERVAL_SECONDS = 60.0
MOST_ROWS = 200_000
"""Kept in memory while the disk is full; the oldest go first."""
KEY_FILE, LONGEST_CASE = ".key", 256
SITE = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._+-]{0,63}")


class PredictionLog:
    """Rows of one version, from any number of threads."""

    def __init__(self, folder: Path, *, version: str, interval_seconds: float = INTERVAL_SECONDS) -> None:
        self.folder, self.version, self.interval_seconds = private_folder(folder), version, interval_seconds
        self._rows: list[dict[str, Any]] = []
        self._lock = threading.Lock()
        self._timer: threading.Timer | None = None
        atexit.register(self.flush)

    def case(self, word: str | None) -> str | None:
        """What stands for the client's word: the same in this folder, and of no use without its key."""
        if not word:
            return None
        if len(word) > LONGEST_CASE:
            raise WrongUseError("case", f"`case` has {len(word)} characters.", f"Use at most {LONGEST_CASE}.")
        return hmac.new(self._key(), word.encode(), "sha256").hexdigest()[:16]

    def _key(self) -> bytes:
        """Random, made by the first process that needs it, readable by its owner alone."""
        path = self.folder / KEY_FILE
        with contextlib.suppress(FileExistsError):
            draft = path.with_name(temporary_name())
            draft.touch(mode=0o600)
            draft.write_bytes(secrets.token_bytes(32))
            try:
                os.link(draft, path)
            finally:
                draft.unlink()
        return path.read_bytes()

    def note(self, rows: Sequence[dict[str, Any]], *, first: bool = False) -> None:
        """The first rows of an interval start its clock. ``first``: they are older than what has gathered."""
        with self._lock:
            end = 0 if first else len(self._rows)
            self._rows[end:end] = rows
            del self._rows[:-MOST_ROWS]
            if self._timer is None and self._rows:
                self._timer = threading.Timer(self.interval_seconds, self.flush)
                self._timer.daemon = True
                self._timer.start()

    def flush(self) -> None:
        """Write what has gathered. A full disk is said, and tried again: it must not stop the model."""
        with self._lock:
            rows, self._rows, self._timer = self._rows, [], None
        if not rows:
            return
        stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
        path = self.folder / f"{stamp}-v{self.version}-{secrets.token_hex(4)}.parquet"
        try:
            schemas.write_table(path, pa.Table.from_pylist(rows, schema=schemas.SERVED))
        except OSError as error:
            log.warning("the prediction log cannot be written: %s", error)
            self.note(rows, first=True)


def from_environment() -> PredictionLog | None:
    """As the front door asks for it."""
    folder = os.environ.get(FOLDER)
    if not folder:
        return None
    seconds = float(os.environ.get(SECONDS, INTERVAL_SECONDS))
    return PredictionLog(Path(folder), version=os.environ.get(VERSION, "unknown"), interval_seconds=seconds)


def rows(
    *,
    version: str,
    kind: str,
    source: str,
    site: str | None,
    case: str | None,
    classes: Sequence[str],
    frame_index_N: NDArray[np.integer[Any]],
    fit_N: NDArray[np.bool_],
    figures: Sequence[Quality],
    grain: Sequence[float],
    prediction: Prediction,
) -> list[dict[str, Any]]:
    """``schemas.SERVED`` of the frames of one request."""
    at = int(time.time() * 1000)
    assert prediction.similarity_NK is not None
    return [
        {
            "at": at,
            "version": version,
            "site": site,
            "case": case,
            "source": source,
            "kind": kind,
            "frame_index": int(frame_index_N[n]),
            "fit": bool(fit_N[n]),
            "predicted": classes[prediction.predicted_N[n]],
            "probabilities": list(zip(classes, map(float, prediction.probabilities_NK[n]), strict=True)),
            "distances": [
                (name, 1.0 - float(cosine))
                for name, cosine in zip(classes, prediction.similarity_NK[n], strict=True)
                if np.isfinite(cosine)
            ],
            "score": float(prediction.score_N[n]),
            "reject": bool(prediction.reject_N[n]),
            **{name: getattr(figures[n], name) for name in schemas.IMAGE_FIGURES if name != "grain"},
            "grain": grain[n],
        }
        for n in range(len(frame_index_N))
    ]


def checked_site(site: str | None) -> str | None:
    """A word for a place. It goes into the log, so it must not carry anything else."""
    if not site:
        return None
    if not SITE.fullmatch(site):
        raise WrongUseError("site", "`site` is not the name of a place.", "Use 1-64 letters, digits, spaces or ._+-")
    return site


def remove(folder: Path, sources: Collection[str]) -> int:
    """Take the rows of these clips out of every part: a patient withdrew. Returns how many rows that was."""
    removed = 0
    for path in sorted(folder.glob("[!.]*.parquet")):
        table = pq.read_table(path)
        kept = table.filter([source not in sources for source in table["source"].to_pylist()])
        removed += len(table) - len(kept)
        if not len(kept):
            path.unlink()
        elif len(kept) < len(table):
            schemas.write_table(path, kept)
    return removed
