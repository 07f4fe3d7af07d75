"""Is this machine, and this workspace, fit to work? Each finding comes with its remedy; some mend themselves."""

from __future__ import annotations

from dataclasses import replace

from pipelines import locks
from pipelines.doctor import damage, machine, promotions, state, stores
from pipelines.doctor.finding import Finding
from pipelines.errors import LclscError
from pipelines.workspace import Workspace

__all__ = ["Finding", "repair", "run"]


def run(workspace: Workspace | None, *, deep: bool = False) -> list[Finding]:
    """``deep``: hash every object that DVC stores, too."""
    findings = list(machine.findings())
    if workspace is not None:
        findings += [*state.findings(workspace), *stores.findings(workspace)]
        findings += [damage.finding(workspace)] if deep else []
        if all(finding.ok for finding in findings if finding.name == stores.MLFLOW_SERVER):
            findings += promotions.findings(workspace)  # else it could only wait for an answer
    return findings


def repair(workspace: Workspace, *, deep: bool = False) -> list[Finding]:
    """Mend what can be mended without losing anything; what is left, and what was done, is told."""
    with locks.one_writer(workspace):  # which ends orphans and sweeps temporary files
        return [_mended(finding) for finding in run(workspace, deep=deep)]


def _mended(finding: Finding) -> Finding:
    if finding.ok or finding.mend is None:
        return finding
    try:
        return replace(finding, ok=True, found=finding.mend())
    except (LclscError, OSError) as error:
        return replace(finding, found=f"{finding.found}; repair failed: {error}")
