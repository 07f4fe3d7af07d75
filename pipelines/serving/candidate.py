"""What should be served: the version behind an alias, checked and lying on this machine."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from pipelines import registry
from pipelines.errors import StageError, WrongUseError
from pipelines.evidence import trace, withdrawals
from pipelines.evidence.ledger_events import whole_ledger
from pipelines.files import read_json
from pipelines.registry import Registry, Version
from pipelines.serving.terms import Terms
from pipelines.workspace import Workspace

EXAMPLE = "serving_input_example.json"


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A version that may be started."""

    version: str
    weights_sha256: str
    lineage_sha256: str
    package: Path
    remarks: tuple[str, ...] = ()  # what a person should know and what does not keep it from serving

    @cached_property
    def classes(self) -> list[str]:
        return list(read_json(self.package / "artifacts" / "model" / "model.json")["classes"])

    @property
    def example(self) -> bytes:
        """The drawn picture that comes with every package, as a request."""
        return (self.package / EXAMPLE).read_bytes()


class Source:
    """The registry as the server sees it. Blocking: called from a thread."""

    def __init__(self, workspace: Workspace, terms: Terms) -> None:
        self.workspace = workspace
        self.terms = terms
        self._looked: tuple[str, Any] | None = None
        self._concern: str | None = None

    @cached_property
    def store(self) -> Registry:
        return registry.connect(self.workspace)

    def wanted(self) -> str:
        """The number of the version to serve. WrongUseError where the alias is not set."""
        if not self.terms.follows:
            return self.terms.model
        found = self.store.aliases().get(self.terms.model)
        if found is None:
            raise WrongUseError(
                "no_alias",
                f"No version is {self.terms.model}.",
                "Train one with `lclsc retrain`, or name a version: --model 1.",
            )
        return found

    def fetch(self, number: str) -> Candidate:
        """The package, checked against its lineage. StageError where consent to it was withdrawn."""
        version = self.store.version(number)
        if version is None:
            known = ", ".join(one.version for one in self.store.versions()) or "none"
            raise WrongUseError("no_version", f"There is no version {number}.", f"Versions: {known}.")
        return Candidate(
            version=number,
            weights_sha256=version.tags["weights_sha256"],
            lineage_sha256=version.tags["lineage_sha256"],
            package=self.store.download(version),
            remarks=remarks_on_consent(self.workspace, version),
        )

    def concern(self, number: str) -> str | None:
        """Why the version that answers should not, by what the ledger says since; read again when it changed."""
        stat = self.workspace.ledger.stat() if self.workspace.ledger.exists() else None
        look = (number, stat and (stat.st_size, stat.st_mtime_ns))
        if look != self._looked:
            version = self.store.version(number)
            try:
                self._concern = None
                if version is not None:
                    remarks_on_consent(self.workspace, version)
            except StageError as error:
                self._concern = f"{error.cause} {error.remedy}"
            self._looked = look
        return self._concern


def remarks_on_consent(workspace: Workspace, version: Version) -> tuple[str, ...]:
    """Asks the ledger, of which no line may be damaged: it might name a patient. See ``withdrawal``."""
    if not withdrawals.of(whole_ledger(workspace)).patients:
        return ()
    return withdrawal(version.version, trace.run(workspace, "model", version.version))


def withdrawal(number: str, seen: Mapping[str, Any]) -> tuple[str, ...]:
    """A model made from a patient who took their consent back is not served; one only tested on them is remarked on.

    ``seen`` is what ``trace model`` answers.
    """
    gone = set(seen["withdrawn"])
    if made_from := {video["patient_id"] for video in seen["videos"] if video["role"] != "test"} & gone:
        raise StageError(
            "withdrawn",
            f"Version {number} was made from {len(made_from)} patient{'s' * (len(made_from) > 1)} whose consent was"
            " withdrawn since.",
            "Retrain without them, or serve a version that never saw them: --model NUMBER.",
        )
    return (f"{len(gone)} of its test patients took their consent back since",) if gone else ()


def require_sound_answer(candidate: Candidate, body: bytes) -> None:
    """The answer to the package's own example. ValueError says what is wrong with it."""
    rows: list[dict[str, Any]] = json.loads(body)["predictions"]
    if len(rows) != 1:
        raise ValueError(f"{len(rows)} rows for one picture")
    shares = rows[0]["probabilities"]
    if sorted(shares) != sorted(candidate.classes) or rows[0]["class"] not in shares:
        raise ValueError("its classes are not those of its model card")
    if not abs(sum(shares.values()) - 1) < 1e-3:
        raise ValueError("its probabilities do not add up to 1")
