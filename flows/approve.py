"""A person's word from Prefect's page: a challenger becomes champion, by the same rules as ``lclsc approve``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from prefect import flow
from prefect.logging import get_run_logger
from prefect.utilities.timeout import timeout
from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from flows import console, notices
from flows.options import open_workspace
from pipelines import promotion

LIMIT_SECONDS = 3600

Words = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]


class Decision(BaseModel):
    """What Prefect's page asks for."""

    model_config = ConfigDict(extra="forbid")

    version: Words = Field(default="@challenger", description="The challenger: its number or @challenger.")
    by: Words = Field(description="Who decides: your name. Kept in the ledger.")
    reason: Words = Field(description="Why. Kept in the ledger.")
    evidence: str = Field(
        default="",
        pattern="^([0-9a-f]{8,64})?$",
        description="SHA-256 of the gate.json that you looked at; 8 characters do.",
    )


@flow(name="approve", persist_result=False, on_crashed=[notices.of_crash])
def approve(workspace: Path, decision: Decision) -> dict[str, Any]:
    """Make the challenger champion. Refused, with the reason as the run's error, when its evidence no longer holds."""
    place = open_workspace(workspace)
    try:
        with timeout(LIMIT_SECONDS):
            outcome = promotion.approve(
                place, decision.version, by=decision.by, reason=decision.reason, evidence=decision.evidence or None
            )
    except Exception as error:
        notices.of_failure("approve", error, place.root.name)
        raise
    said = f"version {outcome.version} is champion" + (f", before: version {outcome.before}" if outcome.before else "")
    get_run_logger().info("approve: %s", said)
    if outcome.pushed is False:
        get_run_logger().warning("approve: the ledger's commit could not be pushed; the next push takes it along")
    console.say_served(f"approve  {said}")
    if outcome.status == "approved":
        notices.send("approved", f"version {outcome.version} is champion", f"{place.root.name}: by {decision.by}.")
    return {"schema": "approve/1"} | outcome.as_json()
