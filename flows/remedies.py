"""What helps where a check of an audit failed: first find out who changed it, then put it back."""

from __future__ import annotations

from collections.abc import Iterable

SOUND_COPY = "`lclsc doctor --deep --repair` puts a sound copy in place of a damaged one, and fetches what is missing."
FROM_GIT = "Look at `git diff` and `git log`; `git checkout` of the last sound commit brings it back."
REBUILD = "`lclsc reproduce VERSION` says whether it still comes out of its videos; else retrain."
REGISTRY = "Somebody wrote to the MLflow server past lclsc: restore its database, or retrain and promote anew."

REMEDIES = {
    "alias_history": FROM_GIT,
    "aliases": "`lclsc doctor --repair` puts back what was moved behind the ledger.",
    "clean": "Commit or undo what was changed since the last commit: `git status`.",
    "commit": "Fetch the commit (`git fetch --all`); a history that was rewritten needs its backup.",
    "files_kept": REGISTRY,
    "gate_evidence": "`lclsc promote VERSION` judges it again.",
    "git_objects": "Clone the repository anew from a remote that is whole: `git fsck` says which object.",
    "ledger_anchored": FROM_GIT,
    "ledger_chain": FROM_GIT,
    "ledger_committed": "`lclsc doctor --repair` commits new lines; `git checkout` restores changed ones.",
    "ledger_events": FROM_GIT,
    "lineage_copies": REGISTRY,
    "lineage_record": REGISTRY,
    "metrics": REBUILD,
    "metrics_logged": REGISTRY,
    "named": "Name a version, alias, data version or commit that is still there: `lclsc status`.",
    "objects_in_cache": SOUND_COPY,
    "objects_in_place": f"{SOUND_COPY} `dvc checkout` brings back files that are missing or newer than the commit.",
    "objects_in_remote": f"{SOUND_COPY} What this clone lacks too, `dvc push` in one that still has it brings back.",
    "package": "Restore the run's artifacts from a backup; else retrain.",
    "page_kept": "`lclsc promote VERSION` writes the page of the version that is built here anew.",
    "params": REGISTRY,
    "patients_disjoint": "Restore splits.csv by `git checkout`; of two copies of a recording set one aside. Retrain.",
    "pixels": REBUILD,
    "promoter": "Hand over by the registry's tag, or work in the workspace that promotes.",
    "registration": "`lclsc retrain` finishes a registration that was killed.",
    "rows_as_taken": "Restore the table from a sound commit; correct labels with `lclsc intake --update`.",
    "settings": FROM_GIT,
    "shards_trace": REBUILD,
    "tables_agree": REBUILD,
    "tags": REGISTRY,
    "versions_noted": "`git pull` brings the ledger up to date; a version it does not know was registered past lclsc.",
    "weights": "Restore the run's artifacts from a backup, or promote another version.",
    "withdrawn": "As it should be after a withdrawal: retrain, and promote the version without them.",
}


def of(failed: Iterable[str]) -> list[tuple[str, str]]:
    """Check and remedy of each that failed, once."""
    return [(name, REMEDIES[name]) for name in dict.fromkeys(failed) if name in REMEDIES]
