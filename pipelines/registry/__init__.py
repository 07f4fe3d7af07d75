"""The registry: what was trained, from what, and which version is challenger or champion.

The only package that speaks to MLflow.
"""

from pipelines.registry.database import ensure_database, is_embedded, rebase, tracking_uri
from pipelines.registry.store import (
    COMPLETE,
    KEY,
    LEDGER_HEAD,
    PROMOTER,
    Registry,
    Run,
    Submission,
    Version,
    complete_version,
    connect,
    read_only,
)

__all__ = [
    "COMPLETE",
    "KEY",
    "LEDGER_HEAD",
    "PROMOTER",
    "Registry",
    "Run",
    "Submission",
    "Version",
    "complete_version",
    "connect",
    "ensure_database",
    "is_embedded",
    "read_only",
    "rebase",
    "tracking_uri",
]
