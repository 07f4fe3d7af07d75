"""What passes between this workspace and others over the git remote: their commits in, ours out.

Where both sides have commits of their own, they are joined by a merge, provided that no file was changed on both
sides; a rebase would give commits other ids, and model versions name theirs. Whoever pushes during a training leaves
HEAD and all files as they are: the next ``take_over`` brings the others' changes in.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from pathlib import Path

from pipelines import object_stores, versioning
from pipelines.errors import OutsideSystemError
from pipelines.files import read_json, write_json
from pipelines.workspace import Workspace

PUSHES = 3
"""How often a push is tried while others keep pushing."""
OTHERS_AT_IT = "cannot lock ref"
"""What a host says while it takes another push."""


def take_over(workspace: Workspace) -> None:
    """Take in what others pushed, and the bytes it names where this clone lacks them. Holds the workspace."""
    _forward(workspace)
    due = _due(workspace)
    if due & {*versioning.POINTERS}:
        versioning.dvc(workspace, "pull", *versioning.POINTERS)  # never by force: hand edits are somebody's work
        _keep_note(workspace, due - {*versioning.POINTERS})
    if workspace.dvc_lock.name in due:
        _pull_outputs(workspace)
    _keep_note(workspace, set())


def take_over_if_there(workspace: Workspace) -> None:
    """``take_over`` for work that does not wait for a git host which is away."""
    try:
        take_over(workspace)
    except OutsideSystemError as error:
        if not error.transient or _due(workspace) & {*versioning.POINTERS}:
            raise


def fetch_all(workspace: Workspace) -> None:
    """Learn of all branches and tags that others pushed, and change no file; or refuse a history that diverged."""
    remote = versioning.git_remote(workspace)
    if remote is None:
        return
    versioning.git(workspace, "fetch", "--quiet", "--tags", remote, f"+refs/heads/*:refs/remotes/{remote}/*")
    theirs, mine = _upstream(workspace, remote), versioning.head(workspace)
    if theirs is not None:
        _both(workspace, remote, mine, theirs)


def push(workspace: Workspace) -> None:
    """Push the branch, joined with what others pushed meanwhile; HEAD and all files stay as they are."""
    remote = versioning.git_remote(workspace)
    if remote is None:
        return
    mine = tip = versioning.head(workspace)
    for tries_left in reversed(range(PUSHES)):
        try:
            versioning.git(workspace, "push", "--quiet", remote, f"{tip}:refs/heads/{versioning.branch(workspace)}")
            return
        except OutsideSystemError as error:
            if not tries_left or "rejected" not in error.cause:
                raise
            theirs = _fetched(workspace, remote)
            if theirs is None or versioning.is_ancestor(workspace, theirs, tip):
                if OTHERS_AT_IT in error.cause:
                    continue
                raise  # for another reason
            tip = _both(workspace, remote, mine, theirs)
            if tip == theirs:
                return


def is_pushed(workspace: Workspace) -> bool:
    """Whether the remote, where there is one, had the last commit when it was last talked to."""
    remote = versioning.git_remote(workspace)
    if remote is None:
        return True
    theirs = _upstream(workspace, remote)
    return theirs is not None and versioning.is_ancestor(workspace, "HEAD", theirs)


# --- two histories ---------------------------------------------------------------------------------


def _forward(workspace: Workspace) -> None:
    """Move HEAD and the files to what others pushed, joined with what is ours alone."""
    remote = versioning.git_remote(workspace)
    theirs = None if remote is None else _fetched(workspace, remote)
    if remote is None or theirs is None:
        return
    with versioning.writing(workspace):
        mine = versioning.head(workspace)
        tip = _both(workspace, remote, mine, theirs)
        if tip == mine:
            return
        news = versioning.git(workspace, "diff", "--name-only", "-z", mine, tip).split("\0")[:-1]
        _clear_the_way(workspace, remote, tip, news)
        noted = _noted(workspace)
        _keep_note(workspace, noted | ({*versioning.POINTERS, workspace.dvc_lock.name} & {*news}))
        try:
            versioning.git(workspace, "merge", "--ff-only", "--no-overwrite-ignore", "--quiet", tip)
        except OutsideSystemError:
            _keep_note(workspace, noted)
            raise


def _clear_the_way(workspace: Workspace, remote: str, tip: str, news: list[str]) -> None:
    """No edit is overwritten. What a killed merge had written already is none."""
    changed = versioning.changed_files(workspace, news) if news else []
    in_the_way = [name for name in changed if _bytes(workspace.root / name) != versioning.file_at(workspace, tip, name)]
    if in_the_way:
        raise _diverged(workspace, remote, in_the_way)
    if changed:
        versioning.git(workspace, "--literal-pathspecs", "add", "--all", "--force", "--", *changed)


def _bytes(path: Path) -> bytes | None:
    return path.read_bytes() if path.is_file() else None


def _both(workspace: Workspace, remote: str, mine: str, theirs: str) -> str:
    """The commit that holds both histories: one of the two, or a new merge of them."""
    if versioning.is_ancestor(workspace, theirs, mine):
        return mine
    if versioning.is_ancestor(workspace, mine, theirs):
        return theirs
    base = versioning.common_commit(workspace, mine, theirs)
    if base is None:
        raise OutsideSystemError(
            "history_diverged",
            f"This workspace and {remote} have no commit in common.",
            f"Look at `git remote get-url {remote}`: it should be the host of this workspace.",
        )
    with tempfile.TemporaryDirectory(prefix="lclsc-join-") as folder:
        index = Path(folder) / "index"
        versioning.git(workspace, "read-tree", "-i", "-m", "--aggressive", base, mine, theirs, index=index)
        unmerged = versioning.git(workspace, "ls-files", "--unmerged", "-z", index=index).split("\0")
        if names := {entry.partition("\t")[2] for entry in unmerged if entry}:
            raise _diverged(workspace, remote, names)
        tree = versioning.git(workspace, "write-tree", index=index)
    return versioning.git(workspace, "commit-tree", tree, "-p", mine, "-p", theirs, "-m", f"Join what {remote} holds")


def _diverged(workspace: Workspace, remote: str, names: Iterable[str]) -> OutsideSystemError:
    merge = f"git merge {remote}/{versioning.branch(workspace)}"
    return OutsideSystemError(
        "history_diverged",
        f"Changed both in this workspace and in what {remote} holds: {', '.join(sorted(names))}.",
        f"Commit your own change, settle the file with `{merge}`, and never rebase: model versions name these "
        "commits. Lines of ledger.jsonl cannot be merged: see 'Two histories' in docs/recovery.md.",
    )


def _fetched(workspace: Workspace, remote: str) -> str | None:
    versioning.git(workspace, "fetch", "--quiet", remote)
    return _upstream(workspace, remote)


def _upstream(workspace: Workspace, remote: str) -> str | None:
    """The last commit of the remote's branch of the same name, as last fetched or pushed."""
    return versioning.find_commit(workspace, f"refs/remotes/{remote}/{versioning.branch(workspace)}")


# --- the bytes -------------------------------------------------------------------------------------


def _note(workspace: Workspace) -> Path:
    """Which of DVC's files HEAD moved with, until their bytes are here: killed in between, nothing else would tell."""
    return workspace.state / "take_over.json"


def _pull_outputs(workspace: Workspace) -> None:
    """They can be made again, which a remote that lost some, or has forgotten a patient, does not stop."""
    try:
        versioning.dvc(workspace, "pull", "--force", *versioning.stages(workspace))
    except OutsideSystemError:
        store = object_stores.remote(workspace, versioning.default_remote(workspace))
        if store.absent:
            raise
        store.require()
        if not _lacks_some(workspace):
            raise


def _lacks_some(workspace: Workspace) -> bool:
    try:
        return bool(versioning.missing_objects(workspace))
    except FileNotFoundError:  # a folder's listing that could not be fetched
        return True


def _keep_note(workspace: Workspace, names: set[str]) -> None:
    if names:
        write_json(_note(workspace), sorted(names))
    else:
        _note(workspace).unlink(missing_ok=True)


def _noted(workspace: Workspace) -> set[str]:
    return set(read_json(_note(workspace))) if _note(workspace).exists() else set()


def _due(workspace: Workspace) -> set[str]:
    """DVC's files whose bytes are to be fetched: the noted ones, and in a clone those that never were."""
    folders = zip(
        (*versioning.POINTERS, workspace.dvc_lock.name),
        (workspace.videos, workspace.masks, workspace.frames),
        strict=True,
    )
    lacking = {name for name, folder in folders if not folder.exists()}
    return {name for name in lacking | _noted(workspace) if (workspace.root / name).is_file()}
