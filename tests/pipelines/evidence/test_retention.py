"""What is deleted for good: gc keeps what anybody may need, forget deletes all of a patient or changes nothing."""

from __future__ import annotations

import datetime
import os
import shutil
import subprocess
from pathlib import Path
from unittest import mock

import pytest
import yaml

from pipelines import exchange, ledger, manifest, object_stores, versioning
from pipelines.alias_history import PROMOTER_NAMED
from pipelines.errors import LclscError, OutsideSystemError, StageError
from pipelines.evidence import forget, gc
from pipelines.evidence.audit import head
from pipelines.evidence.object_checks import Sample, check_objects
from pipelines.files import md5_bytes, sha256_bytes
from pipelines.manifest import Video
from pipelines.workspace import Workspace

PATIENT, OTHER = "kdemo-patient0one", "kdemo-patient0two"
PIXELS, OTHERS = b"pixels of the first patient", b"pixels of the second patient"
NOBODY = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_ENDPOINT_URL": "http://127.0.0.1:1"}
NOBODY |= {"AWS_MAX_ATTEMPTS": "1"}
"""Where no S3 server listens; not asked five times."""


def put_in(workspace: Workspace, patient_id: str, content: bytes) -> str:
    """Take a video in, as far as tables and DVC go; returns its id. Not committed."""
    video_id = sha256_bytes(content)
    (workspace.videos / f"{video_id}.mp4").write_bytes(content)
    row = Video(video_id=video_id, patient_id=patient_id, site="a", domain="ex-vivo", label="glioma", mask_sha256="")
    manifest.write_videos(workspace.manifest, [*manifest.read_videos(workspace.manifest), row])
    manifest.write_splits(workspace.splits, manifest.read_splits(workspace.splits) | {patient_id: "train"})
    versioning.track(workspace, "videos", remote="identified")
    return video_id


def commit(workspace: Workspace, *more: str) -> str:
    versioning.commit(workspace, (*versioning.OWN_INPUTS, "ledger.jsonl", *more), "Take in")
    return versioning.head(workspace)


def register(workspace: Workspace, sha: str, version: str = "1") -> None:
    data = {"version": version, "commit": sha, "lineage_sha256": "0" * 64}
    ledger.append(workspace, actor="test", event="registered", subject=f"version {version}", data=data)


def lock(workspace: Workspace, content: bytes) -> str:
    """An output of a stage in the cache, named by dvc.lock; returns its MD5. Not committed."""
    md5 = md5_bytes(content)
    place = workspace.root / ".dvc" / "cache" / object_stores.place(md5)
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(content)
    outs = [{"path": "models/model.json", "hash": "md5", "md5": md5, "size": len(content)}]
    stage = {"cmd": "true", "outs": outs}
    workspace.dvc_lock.write_text(yaml.safe_dump({"schema": "2.0", "stages": {"train": stage}}))
    return md5


def held(root: Path, content: bytes) -> list[Path]:
    return [path for path in root.rglob("*") if path.is_file() and content in path.read_bytes()]


def listing(workspace: Workspace) -> Path:
    name = versioning.pointer_md5(workspace, "videos")
    return workspace.root / ".dvc" / "cache" / object_stores.place(name)


def free(workspace: Workspace, *, remotes: bool = True) -> gc.Freed:
    return gc.run(workspace, remotes=remotes, dry_run=False)


def refused(workspace: Workspace, code: str, *, remotes: bool = True) -> LclscError:
    """gc refuses, and the cache is as it was."""
    before = sorted((workspace.root / ".dvc" / "cache").rglob("*"))
    with pytest.raises(LclscError) as told:
        free(workspace, remotes=remotes)
    assert (told.value.code, bool(told.value.cause), bool(told.value.remedy)) == (code, True, True)
    assert sorted((workspace.root / ".dvc" / "cache").rglob("*")) == before
    return told.value


def copied(root: Path, to: Path) -> Workspace:
    """DVC takes seconds for a video: a state is made once, and copied."""
    subprocess.run(["cp", "-a", str(root), str(to)], check=True)
    return Workspace(to)


@pytest.fixture(scope="module")
def one_left(empty_workspace: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Version 1 needs a video that left the data since, and ``stray`` is in nobody's need."""
    workspace = copied(empty_workspace, tmp_path_factory.mktemp("one-left") / "w")
    put_in(workspace, PATIENT, PIXELS)
    register(workspace, commit(workspace))
    (workspace.videos / f"{sha256_bytes(PIXELS)}.mp4").unlink()
    manifest.write_videos(workspace.manifest, [])
    put_in(workspace, OTHER, OTHERS)
    commit(workspace)
    cached = workspace.root / ".dvc" / "cache" / object_stores.place(md5_bytes(b"stray"))
    cached.parent.mkdir(exist_ok=True)
    cached.write_bytes(b"stray")
    return workspace.root


@pytest.fixture
def older(one_left: Path, tmp_path: Path) -> Workspace:
    return copied(one_left, tmp_path / "w")


@pytest.fixture
def shared(with_remotes: Workspace, tmp_path: Path) -> tuple[Workspace, Workspace]:
    """A workspace and a clone of it, with a git remote and DVC remotes in common."""
    workspace = with_remotes
    put_in(workspace, PATIENT, PIXELS)
    register(workspace, commit(workspace))
    versioning.push_objects(workspace)
    origin = tmp_path / "origin.git"
    subprocess.run(["git", "clone", "--quiet", "--bare", str(workspace.root), str(origin)], check=True)
    versioning.git(workspace, "remote", "add", "origin", str(origin))
    subprocess.run(["git", "clone", "--quiet", str(origin), str(tmp_path / "second")], check=True)
    return workspace, Workspace(tmp_path / "second")


# --- gc --------------------------------------------------------------------------------------------


def test_gc_frees_what_nobody_needs_and_keeps_what_an_older_version_needs(older: Workspace) -> None:
    assert free(older).freed == 1
    assert not held(older.root / ".dvc" / "cache", b"stray")
    assert held(older.root / ".dvc" / "cache", PIXELS)


def test_gc_of_a_new_workspace_finds_nothing_to_do(workspace: Workspace) -> None:
    """The folder of the remote ``storage`` is made by the first push."""
    assert not (workspace.remotes / "storage").exists()
    assert free(workspace).freed == 0


def test_gc_refuses_a_ledger_that_cannot_be_read(older: Workspace) -> None:
    older.ledger.write_bytes(b"<<<<<<< HEAD\n" + older.ledger.read_bytes())
    refused(older, "ledger_damaged", remotes=False)


def test_gc_refuses_a_damaged_ledger_of_a_branch(older: Workspace) -> None:
    whole = older.ledger.read_bytes()
    older.ledger.write_bytes(b"<<<<<<< HEAD\n" + whole)
    versioning.git(older, "commit", "--quiet", "--all", "--message", "As a merge tool left it")
    sha = versioning.head(older)
    older.ledger.write_bytes(whole)
    assert sha[:12] in refused(older, "ledger_damaged", remotes=False).cause


def test_gc_keeps_what_the_committed_ledger_names_where_the_file_is_gone(older: Workspace) -> None:
    older.ledger.unlink()
    free(older)
    assert held(older.root / ".dvc" / "cache", PIXELS)


def test_gc_refuses_where_a_registered_commit_is_not_in_this_clone(older: Workspace) -> None:
    register(older, "a" * 40, "7")
    assert "version 7" in refused(older, "commit_missing", remotes=False).cause


def test_gc_keeps_what_an_uncommitted_lock_and_pointer_name(workspace: Workspace) -> None:
    lock(workspace, b"a model that was not committed yet")
    put_in(workspace, PATIENT, PIXELS)
    assert free(workspace).freed == 0
    assert held(workspace.root / ".dvc" / "cache", b"a model that was not committed yet")
    assert held(workspace.root / ".dvc" / "cache", PIXELS)


def test_gc_refuses_an_uncommitted_lock_that_cannot_be_read(older: Workspace) -> None:
    older.dvc_lock.write_text("<<<<<<< HEAD\nschema: '2.0'\n=======\n")
    assert "the working tree" in refused(older, "pointers_damaged").cause


def test_gc_of_a_clone_that_is_behind_keeps_what_was_pushed_since(shared: tuple[Workspace, Workspace]) -> None:
    workspace, clone = shared
    versioning.dvc(clone, "pull", "videos.dvc", "masks.dvc")
    put_in(workspace, OTHER, OTHERS)
    register(workspace, commit(workspace), "2")
    versioning.push_inputs(workspace)
    (workspace.videos / f"{sha256_bytes(OTHERS)}.mp4").unlink()
    versioning.track(workspace, "videos", remote="identified")
    commit(workspace)
    exchange.push(workspace)
    before = versioning.head(clone)
    free(clone)
    assert held(workspace.root.parent / "remotes", OTHERS)
    assert versioning.head(clone) == before


def test_gc_of_remotes_refuses_a_history_that_diverged(shared: tuple[Workspace, Workspace]) -> None:
    workspace, clone = shared
    versioning.dvc(clone, "pull", "videos.dvc", "masks.dvc")
    for place, content in ((workspace, OTHERS), (clone, b"a third")):
        put_in(place, OTHER, content)
        commit(place)
    exchange.push(workspace)
    refused(clone, "history_diverged")


def test_only_the_promoting_workspace_frees_the_remotes(shared: tuple[Workspace, Workspace]) -> None:
    workspace, clone = shared
    own = versioning.clone_id(workspace)
    ledger.append(workspace, actor="test", event=PROMOTER_NAMED, subject=own, data={})
    commit(workspace)
    exchange.push(workspace)
    versioning.dvc(clone, "pull", "videos.dvc", "masks.dvc")
    assert own[:8] in refused(clone, "not_promoting").cause
    assert free(clone, remotes=False).freed == 0
    assert free(workspace).freed == 0


def test_gc_spares_what_another_clone_is_just_storing(shared: tuple[Workspace, Workspace]) -> None:
    workspace, clone = shared
    remotes = workspace.root.parent / "remotes"
    versioning.dvc(clone, "pull", "videos.dvc", "masks.dvc")
    put_in(clone, OTHER, OTHERS)
    os.utime(clone.root / ".dvc" / "cache" / object_stores.place(md5_bytes(OTHERS)), (0, 0))
    versioning.push_inputs(clone)  # its commit follows
    found = free(workspace)
    assert (found.freed, found.spared) == (0, 2)
    assert held(remotes, OTHERS)
    for path in remotes.rglob("*"):
        os.utime(path, (0, 0))
    found = free(workspace)
    assert (found.freed, found.spared) == (2, 0)
    assert not held(remotes, OTHERS)
    assert held(remotes, PIXELS)


def test_gc_asks_a_bucket_what_it_holds_and_how_old_that_is(
    bucket: str, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    versioning.dvc(workspace, "remote", "modify", "storage", "url", f"s3://{bucket}/clinic")
    (workspace.masks / "m.tif").write_bytes(b"mask")
    versioning.track(workspace, "masks")
    versioning.push_inputs(workspace)
    versioning.git(workspace, "checkout", "--quiet", "masks.dvc")
    found = free(workspace)  # of the cache at once
    assert (found.freed, found.spared) == (2, 2)
    monkeypatch.setattr(gc, "YOUNG", datetime.timedelta())
    found = free(workspace)
    assert (found.freed, found.spared) == (2, 0)


# --- forget ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def two_in(empty_workspace: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two patients, and no retrain yet."""
    workspace = copied(empty_workspace, tmp_path_factory.mktemp("two-in") / "w")
    put_in(workspace, PATIENT, PIXELS)
    put_in(workspace, OTHER, OTHERS)
    commit(workspace)
    return workspace.root


@pytest.fixture
def taken(two_in: Path, tmp_path: Path) -> Workspace:
    return copied(two_in, tmp_path / "w")


def unchanged_by_forget(workspace: Workspace, error: type[LclscError], code: str) -> None:
    before = (versioning.head(workspace), ledger.read(workspace.ledger), held(workspace.root, PIXELS))
    with pytest.raises(error) as told:
        forget.run(workspace, PATIENT)
    assert (told.value.code, bool(told.value.remedy)) == (code, True)
    assert (versioning.head(workspace), ledger.read(workspace.ledger), held(workspace.root, PIXELS)) == before


def test_a_patient_is_forgotten_before_anything_was_trained(taken: Workspace) -> None:
    assert not (taken.remotes / "storage").exists()
    assert forget.run(taken, PATIENT).objects == 1
    assert held(taken.root, PIXELS) == []
    assert held(taken.root, OTHERS)


def test_an_audit_goes_on_calling_a_remote_that_is_not_there_unknown(taken: Workspace) -> None:
    shutil.rmtree(taken.remotes)
    assert looked_at(taken) == {"objects_in_cache": "pass", "objects_in_remote": "unknown"}


def test_an_audit_calls_a_remote_whose_server_does_not_answer_unknown(taken: Workspace) -> None:
    versioning.push_inputs(taken)
    versioning.dvc(taken, "remote", "modify", "storage", "url", "s3://nobody/clinic")
    with mock.patch.dict(os.environ, NOBODY):
        assert looked_at(taken)["objects_in_remote"] == "unknown"


def looked_at(workspace: Workspace) -> dict[str, str]:
    checks = check_objects(head(workspace).commit, sample=Sample(), gone=(), advance=lambda _: None)
    return {check.name: check.verdict for check in checks}


def test_forget_changes_nothing_where_a_folder_that_was_pushed_to_is_not_there(taken: Workspace) -> None:
    lock(taken, b"a model")
    commit(taken, "dvc.lock")
    unchanged_by_forget(taken, OutsideSystemError, "store_unreachable")


def test_forget_changes_nothing_where_a_server_does_not_answer(taken: Workspace) -> None:
    versioning.dvc(taken, "remote", "modify", "storage", "url", "s3://nobody/clinic")
    with mock.patch.dict(os.environ, NOBODY):
        unchanged_by_forget(taken, OutsideSystemError, "store_unreachable")


def test_forget_changes_nothing_where_a_listing_is_lost_that_may_name_the_patient(taken: Workspace) -> None:
    (taken.videos / f"{sha256_bytes(PIXELS)}.mp4").unlink()
    lost = listing(taken)
    versioning.track(taken, "videos", remote="identified")
    commit(taken)
    lost.chmod(0o600)
    lost.unlink()
    unchanged_by_forget(taken, StageError, "listing_lost")
    free(taken)
    assert held(taken.root / ".dvc" / "cache", PIXELS) == []
    forget.run(taken, PATIENT)


def test_forget_changes_nothing_where_the_ledger_cannot_be_read(taken: Workspace) -> None:
    register(taken, versioning.head(taken))
    forget.trace.run(taken, "patient", PATIENT)
    taken.ledger.write_bytes(b"<<<<<<< HEAD\n" + taken.ledger.read_bytes())
    with pytest.raises(StageError, match="not an entry"):
        forget.run(taken, PATIENT)
    assert held(taken.root / ".dvc" / "cache", PIXELS)


def test_forget_deletes_what_only_an_uncommitted_lock_names(taken: Workspace) -> None:
    video_id = sha256_bytes(PIXELS)
    lock(taken, b"a shard with " + PIXELS)
    document = yaml.safe_load(taken.dvc_lock.read_text())
    document["stages"]["train"]["outs"][0]["path"] = f"data/frames/{video_id}-recipe.parquet"
    taken.dvc_lock.write_text(yaml.safe_dump(document))
    forget.run(taken, PATIENT)
    assert held(taken.root, PIXELS) == []


def test_forget_deletes_what_killed_runs_left(
    taken: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = tmp_path / "shared"
    monkeypatch.setenv("LCLSC_STORAGE", str(shared))
    state = taken.state
    leftovers = [
        state / "samples" / "run" / "train",
        state / "scores" / "lclsc-look-1" / "said.json",
        state / "runner" / "lclsc-look-2" / "said.json",
        state / "runner" / "lclsc-gate-3" / "request.json",
        shared / "samples" / "run" / "train",
    ]
    others = [state / "runner" / "runner_storage" / "flows.py", shared / "run" / "checkpoint"]
    for path in (*leftovers, *others):
        path.parent.mkdir(parents=True)
        path.write_bytes(PIXELS if path in leftovers else b"no pixels")
    forget.run(taken, PATIENT)
    assert held(tmp_path, PIXELS) == []
    assert all(path.exists() for path in others)
