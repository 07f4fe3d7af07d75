"""git and DVC: which bytes belong to which version. The only module that speaks to either.

Both are driven through their command lines; what only reads parses their files (dvc.lock, ``*.dvc``).
"""

from __future__ import annotations

import configparser
import contextlib
import json
import os
import shutil
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import yaml

from pipelines import dead_locks
from pipelines.errors import OutsideSystemError, StageError, asking
from pipelines.files import md5_bytes, write_text
from pipelines.ledger import exclusive
from pipelines.workspace import Workspace

OWN_INPUTS = (
    "workspace.json",
    "manifest.csv",
    "splits.csv",
    "provenance.csv",
    "videos.dvc",
    "masks.dvc",
    "params.yaml",
    "dvc.yaml",
    "prefect.yaml",
    "code.json",
    ".gitignore",
    ".dvcignore",
    ".dvc/config",
    ".dvc/.gitignore",
)
POINTERS = ("videos.dvc", "masks.dvc")
"""What git holds of the folders that intake fills."""
DVC_SUPPORT = "https://dvc.org/support"  # in the last line of what DVC says of any failure
MD5_OF_NOTHING = md5_bytes(b"")
TALKING = frozenset({"fetch", "push", "pull"})
"""What git and DVC do with another machine: the same command may succeed a minute later."""
LISTING = TALKING | {"checkout"}
"""DVC's commands that go by a list of objects which an earlier command kept."""
GIT_SECONDS = 600.0
"""What git may take for it, who carries tables and settings; DVC carries videos, and its clients have limits."""
AUTHOR = ("lclsc", "lclsc@localhost")
GITIGNORE = """\
/videos/
/masks/
/quarantine/
/remotes/
/data/
/models/
/reports/
/mlflow.db*
/mlartifacts/
/.state/
.tmp-*
"""


class StageChange(NamedTuple):
    """Why DVC calls a stage stale, in a reader's words."""

    stage: str
    reasons: list[str]


# --- git -------------------------------------------------------------------------------------------


def git(workspace: Workspace, *arguments: str, index: Path | None = None) -> str:
    """What git answers; ``index`` stands in for the workspace's own, which then stays as it is."""
    aside = {} if index is None else {"GIT_INDEX_FILE": str(index)}
    return _run(["git", *_identity(workspace.root), *arguments], workspace.root, "git", aside).strip()


def head(workspace: Workspace) -> str:
    return git(workspace, "rev-parse", "HEAD")


def find_commit(workspace: Workspace, revision: str) -> str | None:
    """The full id of a commit, branch or tag; None where git knows none."""
    found = _git_bytes(workspace, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}")
    return found.decode().strip() if found else None


def is_ancestor(workspace: Workspace, older: str, newer: str) -> bool:
    return _git_done(workspace, "merge-base", "--is-ancestor", older, newer).returncode == 0


def common_commit(workspace: Workspace, one: str, other: str) -> str | None:
    """The last commit that both go on from; None where there is none."""
    found = _git_bytes(workspace, "merge-base", one, other)
    return found.decode().strip() if found else None


def is_held(workspace: Workspace, commit: str) -> bool:
    """Is the commit in the history of HEAD, a branch or a tag? What is in none is dropped by git some day."""
    return is_ancestor(workspace, commit, "HEAD") or bool(
        _git_bytes(workspace, "for-each-ref", "--count=1", "--contains", commit)
    )


def file_at(workspace: Workspace, commit: str, path: str) -> bytes | None:
    """A file's bytes as committed; None where the commit has none."""
    return _git_bytes(workspace, "cat-file", "blob", f"{commit}:{path}")


def commits_touching(
    workspace: Workspace, paths: Iterable[str], *, until: str = "HEAD", everywhere: bool = False
) -> list[str]:
    """Commits that changed one of the files, newest first; ``everywhere``: of all branches and tags."""
    where = "--all" if everywhere else until
    return git(workspace, "log", "--full-history", where, "--format=%H", "--", *paths).split()


def tips(workspace: Workspace) -> list[str]:
    """HEAD, and the commits that branches and tags point at."""
    refs = git(workspace, "for-each-ref", "--format=%(objectname) %(*objectname)").split()
    return sorted({head(workspace), *(sha for ref in refs if (sha := find_commit(workspace, ref)))})


def damaged_git_objects(workspace: Workspace) -> list[str]:
    """What ``git fsck`` finds, a line each; dangling objects are no damage."""
    done = _git_done(workspace, "fsck", "--full", "--no-dangling", "--no-progress")
    lines = (done.stderr + done.stdout).decode(errors="replace").splitlines()
    return [line for line in lines if line.startswith(("error", "fatal", "missing", "broken", "bad"))]


def changed_files(workspace: Workspace, paths: Iterable[str]) -> list[str]:
    """Which of these files differ from the last commit, or are gone; asked without writing git's index."""
    answer = _git_bytes(workspace, "--literal-pathspecs", "status", "--porcelain", "-z", "--", *paths)
    found = os.fsdecode(answer or b"").split("\0")
    return sorted(entry[3:] for entry in found if entry)


def clone_at(workspace: Workspace, commit: str, root: Path) -> None:
    """A clone of the repository with one commit checked out, sharing no file that is ever written to."""
    git(workspace, "clone", "--quiet", "--no-checkout", str(workspace.root), str(root))
    git(Workspace(root), "checkout", "--quiet", "--detach", commit)


def clone_id(workspace: Workspace) -> str:
    """Names this clone: it moves and is copied with its folder, and is not cloned. Made on first use."""
    known = subprocess.run(
        ["git", "config", "--local", "--get", "lclsc.clone"],
        cwd=workspace.root,
        capture_output=True,
        text=True,
        check=False,
    ).stdout.strip()
    if not known:
        known = uuid.uuid4().hex
        git(workspace, "config", "--local", "lclsc.clone", known)
    return known


def git_user(workspace: Workspace) -> str | None:
    """``Name <address>`` as git is configured for this person; None where it is not."""
    found = [
        (_git_bytes(workspace, "config", "--get", f"user.{key}") or b"").decode().strip() for key in ("name", "email")
    ]
    return f"{found[0]} <{found[1]}>" if all(found) else None


def branch(workspace: Workspace) -> str:
    return git(workspace, "symbolic-ref", "--short", "HEAD")


def git_remote(workspace: Workspace) -> str | None:
    """``origin``, or the first of others; None where there is no remote."""
    remotes = git(workspace, "remote").split()
    return "origin" if "origin" in remotes else next(iter(remotes), None)


def commit(workspace: Workspace, paths: Iterable[str], message: str) -> bool:
    """Commit exactly these paths, whatever else is staged; False when they hold nothing new.

    StageError ``ledger_changed`` where the ledger is among them and its committed lines are no longer there.
    """
    if workspace.ledger.name in (paths := tuple(paths)):
        require_kept_lines(workspace)
    present = [path for path in paths if (workspace.root / path).exists()]
    with writing(workspace):  # an approval commits beside a training
        git(workspace, "add", "--force", "--", *present)
        if not git(workspace, "status", "--porcelain", "--", *present):
            return False
        git(workspace, "commit", "--quiet", "--only", "--message", message, "--", *present)
    return True


def require_kept_lines(workspace: Workspace) -> None:
    """The ledger only grows: what git holds of it still stands at its beginning."""
    committed = file_at(workspace, "HEAD", workspace.ledger.name) or b""
    content = workspace.ledger.read_bytes() if workspace.ledger.exists() else b""
    if not content.startswith(committed[: committed.rfind(b"\n") + 1]):  # a torn last line is cut by the next event
        raise StageError(
            "ledger_changed",
            f"Lines of {workspace.ledger.name} that git holds were changed or taken away.",
            f"Look at `git diff {workspace.ledger.name}`: undo that change and keep the new lines at the end; where "
            f"there are none, `git checkout {workspace.ledger.name}`.",
        )


@contextlib.contextmanager
def writing(workspace: Workspace) -> Iterator[None]:
    """One git of ours at a time; what a killed one left is no obstacle."""
    with exclusive(workspace, "git"):
        dead_locks.mend_git(workspace)
        yield


def hand_edits(workspace: Workspace) -> list[str]:
    """Changed or unknown files that are not this system's to commit."""
    own = {*OWN_INPUTS, "dvc.lock", "ledger.jsonl"}
    lines = _run(["git", "status", "--porcelain"], workspace.root, "git").splitlines()
    return sorted(line[3:] for line in lines if line[3:] not in own)


def open_edits(workspace: Workspace) -> list[str]:
    """Which of params.yaml and dvc.yaml say something else than the last commit: somebody may be in the middle of it.

    The allowed labels are no such edit: intake writes them.
    """
    return [
        name for name in ("params.yaml", "dvc.yaml") if _settings_now(workspace, name) != _committed(workspace, name)
    ]


def _settings_now(workspace: Workspace, name: str) -> Any:
    path = workspace.root / name
    return _without_labels(path.read_bytes()) if path.exists() else None


def _committed(workspace: Workspace, name: str) -> Any:
    stored = file_at(workspace, "HEAD", name)
    return None if stored is None else _without_labels(stored)


def _without_labels(text: bytes) -> Any:
    try:
        document = yaml.safe_load(text)
    except yaml.YAMLError:
        return text
    if isinstance(document, dict) and isinstance(document.get("intake"), dict):
        document["intake"].pop("labels", None)
    return document


# --- DVC -------------------------------------------------------------------------------------------


def dvc(workspace: Workspace, *arguments: str) -> str:
    if arguments[0] in LISTING:
        _remove_lists(workspace)
    return _run([*_dvc_command(), *arguments], workspace.root, "DVC")


def _remove_lists(workspace: Workspace) -> None:
    """DVC keeps lists of which objects belong to which data; killed while it writes one, it goes by half ever after."""
    for kept in (workspace.state / "dvc-site").glob("repo/*/index/data"):
        shutil.rmtree(kept, ignore_errors=True)


def initialise(workspace: Workspace, remote: str | None) -> None:
    """Make ``workspace.root`` a git repository with DVC and its two remotes.

    Raw videos go to the remote ``identified`` only; everything else to ``storage``.
    """
    root = workspace.root
    if not (root / ".git").exists():
        _run(["git", "init", "--quiet", "--initial-branch", "main", str(root)], root, "git")
    write_text(root / ".gitignore", GITIGNORE)
    dvc(workspace, "init")
    write_text(root / ".dvcignore", "/remotes\n/quarantine\n/.state\n/mlartifacts\n.tmp-*\n")
    base = remote.rstrip("/") if remote else "remotes"  # relative: a workspace can be moved
    for option, value in (
        ("core.analytics", "false"),
        ("core.check_update", "false"),
        ("core.autostage", "false"),
    ):
        dvc(workspace, "config", option, value)
    dvc(workspace, "remote", "add", "--default", "storage", f"{base}/storage")
    dvc(workspace, "remote", "add", "identified", f"{base}/identified")


def track(workspace: Workspace, folder: str, *, remote: str | None = None) -> None:
    """``dvc add`` a folder; ``remote`` names the only remote its objects may go to."""
    dvc(workspace, "add", folder)
    pointer = workspace.root / f"{folder}.dvc"
    document = yaml.safe_load(pointer.read_text())
    if remote and document["outs"][0].get("remote") != remote:
        document["outs"][0]["remote"] = remote
        write_text(pointer, yaml.safe_dump(document, sort_keys=False))


def check_out(workspace: Workspace, targets: Iterable[str]) -> None:
    """Put objects of the cache in their places; what else belongs there is not asked for."""
    dvc(workspace, "checkout", *targets)


def stale_stages(workspace: Workspace) -> list[StageChange]:
    """What ``dvc status`` finds, in pipeline order."""
    found = json.loads(dvc(workspace, "status", "--json"))
    order = {stage: position for position, stage in enumerate(stages(workspace))}
    changes = [StageChange(name, list(_reasons(entries))) for name, entries in found.items()]
    return sorted(changes, key=lambda change: order.get(change.stage, -1))


def stages(workspace: Workspace) -> list[str]:
    """The stages of dvc.yaml, in file order, which is running order."""
    return list(yaml.safe_load(workspace.dvc_yaml.read_text())["stages"])


def reproduce_stage(
    workspace: Workspace,
    stage: str,
    on_line: Callable[[str], None],
    *,
    python: str = sys.executable,
    extra: Mapping[str, str] | None = None,
    run_cache: bool = True,
) -> bool:
    """``dvc repro --single-item``; True when the stage's command ran. Its output goes to ``on_line``.

    OutsideSystemError (code ``stage_failed``) when it fails; the typed cause, if the stage left one, is in
    ``.state/<stage>.error.json``.
    """
    command = [python, "-m", "dvc", "repro", "--single-item", *([] if run_cache else ["--no-run-cache"]), stage]
    environment = _environment(python) | {"LCLSC_PROGRESS": "lines"} | dict(extra or {})
    ran = False
    tail: list[str] = []
    with _child(command, cwd=workspace.root, env=environment, stderr=subprocess.STDOUT) as process:
        assert process.stdout is not None
        for line in process.stdout:
            ran = ran or line.startswith("Running stage")
            tail = [*tail, line.rstrip()][-20:]
            on_line(line.rstrip("\n"))
    if process.returncode:
        raise OutsideSystemError(
            "stage_failed",
            f"The stage {stage} failed: {' | '.join(tail[-5:])}",
            "Look at the lines above it; mend the cause and run `lclsc retrain` again.",
        )
    return ran


def push_objects(workspace: Workspace) -> None:
    """``dvc push``, then look for every object ourselves: push says all is well when the remote lost some."""
    _push(workspace)
    missing = missing_objects(workspace)
    if missing:
        raise OutsideSystemError(
            "objects_missing",
            f"{len(missing)} objects are not in the DVC remote after the push, {missing[0]} among them.",
            "Check the remote's disk and rights, remove .state/dvc-site and run `lclsc retrain` again.",
        )


def push_inputs(workspace: Workspace) -> None:
    """Push what was taken in, and nothing of what the stages made."""
    _push(workspace, *POINTERS)


def _push(workspace: Workspace, *targets: str) -> None:
    _remove_empty_objects(workspace)
    dvc(workspace, "push", *targets)


def _remove_empty_objects(workspace: Workspace) -> None:
    """DVC tries a reflink first: killed there, it leaves an empty file, and takes it for the object ever after."""
    for folder in filter(None, (remote_folder(workspace, name) for name in remotes(workspace))):
        for path in (folder / "files" / "md5").glob("??/*"):
            with contextlib.suppress(FileNotFoundError):  # another workspace's push removed its own
                if path.stat().st_size == 0 and path.parent.name + path.name != MD5_OF_NOTHING:
                    path.unlink()


def keeps_copies_elsewhere(workspace: Workspace) -> bool:
    """Does a remote, of git or of DVC, lie outside the workspace?"""
    return git_remote(workspace) is not None or not all(lies_inside(workspace, name) for name in remotes(workspace))


def missing_objects(workspace: Workspace) -> list[str]:
    """``<remote>:<oid>`` of every object of the current version that its remote does not hold."""
    from dvc.repo import Repo

    missing: list[str] = []
    stores: dict[str, Any] = {}
    with Repo(str(workspace.root)) as repo:
        wanted = _objects_by_remote(workspace, str(repo.config["core"]["remote"]))
        for remote in wanted:  # before any is asked, which takes long: a push beside this one removes DVC's lists
            with asking(remote):
                stores[remote] = repo.cloud.get_remote_odb(remote)
        for remote, names in wanted.items():
            oids = {oid for name in names for oid in _expand(repo.cache.local, name)}
            store = stores[remote]
            with asking(remote):
                # The store's own ``exists`` takes an object that it cannot ask for as one that is not there.
                missing += [f"{remote}:{oid}" for oid in sorted(oids) if not store.fs.exists(store.oid_to_path(oid))]
    return missing


def lock_file(workspace: Workspace) -> dict[str, Any]:
    """dvc.lock as it stands; without stages before the first run."""
    if not workspace.dvc_lock.exists():
        return {"schema": "2.0", "stages": {}}
    return dict(yaml.safe_load(workspace.dvc_lock.read_text()))


def pointer_md5(workspace: Workspace, folder: str) -> str:
    """The DVC name of a folder's content, as ``<folder>.dvc`` records it."""
    document = yaml.safe_load((workspace.root / f"{folder}.dvc").read_text())
    return str(document["outs"][0]["md5"])


def default_remote(workspace: Workspace) -> str:
    """The remote that everything but raw videos goes to."""
    return _dvc_config(workspace).get("core", "remote", fallback="storage")


def core_setting(workspace: Workspace, option: str) -> str:
    """One value of DVC's section ``core``; empty where it is not set."""
    return _dvc_config(workspace).get("core", option, fallback="")


def remotes(workspace: Workspace) -> list[str]:
    """Names of the DVC remotes."""
    sections = _dvc_config(workspace).sections()
    return [
        section.strip("'").removeprefix('remote "').removesuffix('"') for section in sections if "remote" in section
    ]


def remote_address(workspace: Workspace, name: str) -> str | None:
    """The address of a remote; a folder's is relative to .dvc."""
    return _dvc_config(workspace).get(f"'remote \"{name}\"'", "url", fallback=None)


def remote_folder(workspace: Workspace, name: str) -> Path | None:
    """The folder that a remote is; None for an address, or where there is no such remote."""
    address = remote_address(workspace, name)
    return None if address is None or "://" in address else (workspace.root / ".dvc" / address).resolve()


def lies_inside(workspace: Workspace, name: str) -> bool:
    """Is a remote a folder of the workspace itself, as a new one's are?"""
    folder = remote_folder(workspace, name)
    return folder is not None and folder.is_relative_to(workspace.root.resolve())


def remote_filesystem(workspace: Workspace, name: str) -> tuple[Any, str]:
    """A remote that is no folder: the fsspec file system under DVC's, with its credentials, and the root inside it."""
    from dvc.repo import Repo

    with Repo(str(workspace.root)) as repo:
        store = repo.cloud.get_remote_odb(name)
    return store.fs.fs, store.path.removesuffix("files/md5").rstrip("/")


def _dvc_config(workspace: Workspace) -> configparser.ConfigParser:
    """.dvc/config, and what config.local changes in it, read as DVC writes them."""
    parser = configparser.ConfigParser(interpolation=None)
    try:
        parser.read([workspace.root / ".dvc" / name for name in ("config", "config.local")], encoding="utf-8")
    except (configparser.Error, UnicodeDecodeError) as error:
        raise StageError(
            "dvc_config",
            f"The settings of DVC cannot be read: {' '.join(str(error).split())}",
            "Restore .dvc/config with git, or mend .dvc/config.local.",
        ) from None
    return parser


def _objects_by_remote(workspace: Workspace, default: str) -> dict[str, set[str]]:
    outs = [out for stage in lock_file(workspace)["stages"].values() for out in stage.get("outs", [])]
    for pointer in sorted(workspace.root.glob("*.dvc")):
        if pointer.is_file():
            outs += yaml.safe_load(pointer.read_text())["outs"]
    objects: dict[str, set[str]] = {}
    for out in outs:
        objects.setdefault(out.get("remote", default), set()).add(out["md5"])
    return objects


def _expand(cache: Any, md5: str) -> set[str]:
    """An object and, when it is a folder's listing, what it lists."""
    if not md5.endswith(".dir"):
        return {md5}
    listing = Path(cache.oid_to_path(md5)).read_text()
    return {md5} | {entry["md5"] for entry in json.loads(listing)}


def _reasons(entries: list[Any]) -> Iterable[str]:
    for entry in entries:
        if isinstance(entry, str):
            yield entry
            continue
        for what, changes in entry.items():
            yield from (f"{_plain(what, path)} {_state(state)}" for path, state in changes.items())


def _plain(what: str, path: str) -> str:
    if path == "code.json":
        return "code"
    return path if what != "changed outs" else f"output {path}"


def _state(state: Any) -> str:
    return state if isinstance(state, str) else "changed: " + ", ".join(sorted(state))


# --- processes -------------------------------------------------------------------------------------


def _dvc_command() -> list[str]:
    return [sys.executable, "-m", "dvc"]


def _environment(python: str = sys.executable) -> dict[str, str]:
    """Stages say ``python``: let it be the one that runs us, whatever the PATH says."""
    path = os.pathsep.join([str(Path(python).parent), os.environ.get("PATH", "")])
    return {**os.environ, "PATH": path}


def _identity(root: Path) -> list[str]:
    """The user's git identity where there is one, else the product's own name."""
    if not (root / ".git").exists():
        return []
    found = subprocess.run(["git", "config", "user.email"], cwd=root, capture_output=True, check=False)
    return [] if found.returncode == 0 else ["-c", f"user.name={AUTHOR[0]}", "-c", f"user.email={AUTHOR[1]}"]


def _git_bytes(workspace: Workspace, *arguments: str) -> bytes | None:
    """What git answers, as bytes; None where it cannot."""
    done = _git_done(workspace, *arguments)
    return None if done.returncode else done.stdout


def _git_done(workspace: Workspace, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    """Git on a folder that may be read-only or somebody else's copy."""
    command = ["git", "-c", f"safe.directory={workspace.root}", *arguments]
    environment = {**os.environ, "GIT_OPTIONAL_LOCKS": "0"}
    return subprocess.run(command, cwd=workspace.root, env=environment, capture_output=True, check=False)


@contextlib.contextmanager
def _child(command: list[str], **how: Any) -> Iterator[subprocess.Popen[str]]:
    """A process that ends with us: stopped, or out of time, leaving would wait for it to end by itself."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, errors="surrogateescape", **how) as process:
        try:
            yield process
        except BaseException:
            _end_tree(process.pid)
            raise


def _end_tree(pid: int) -> None:
    """End a process and all that it started."""
    with contextlib.suppress(psutil.NoSuchProcess):
        parent = psutil.Process(pid)
        for process in [*parent.children(recursive=True), parent]:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()


def _run(command: list[str], folder: Path, system: str, extra: Mapping[str, str] | None = None) -> str:
    talks = not TALKING.isdisjoint(command)
    environment = _environment() | {"LC_ALL": "C.UTF-8", "LANGUAGE": ""} | dict(extra or {})
    how = {"cwd": folder, "env": environment, "stdin": subprocess.DEVNULL, "stderr": subprocess.PIPE}
    try:
        with _child(command, **how) as process:
            out, error = process.communicate(timeout=GIT_SECONDS if talks and system == "git" else None)
    except FileNotFoundError:
        raise OutsideSystemError(f"no_{system.lower()}", f"{system} is not installed.", f"Install {system}.") from None
    except subprocess.TimeoutExpired:
        out, error = "", f"no answer within {GIT_SECONDS:.0f} seconds"
    if process.returncode:
        lines = (error or out).splitlines()
        said = " ".join(" ".join(line for line in lines if DVC_SUPPORT not in line).split())[-500:].rstrip(".")
        raise OutsideSystemError(
            f"{system.lower()}_failed",
            f"{system} could not do `{_shown(command)}`: {said.rstrip('.')}.",
            f"Run that command in {folder} to see more.",
            transient=talks,
        )
    return out


def _shown(command: list[str]) -> str:
    return " ".join(["dvc", *command[3:]] if command[1:3] == ["-m", "dvc"] else command)
