"""Real git and real DVC in a small workspace."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from unittest import mock

import pytest

from pipelines import initialise, versioning
from pipelines.errors import OutsideSystemError, WrongUseError
from pipelines.workspace import Workspace


def test_a_new_workspace_is_clean_and_committed(workspace: Workspace) -> None:
    assert versioning.hand_edits(workspace) == []
    assert versioning.git(workspace, "status", "--porcelain") == ""
    assert versioning.stages(workspace) == ["extract", "train", "evaluate"]


def test_nothing_absolute_stands_in_what_it_keeps(workspace: Workspace, empty_workspace: Path) -> None:
    kept = versioning.git(workspace, "ls-files").splitlines()
    assert ".dvc/config" in kept
    assert not [name for name in kept if str(empty_workspace) in (workspace.root / name).read_text()]


def test_init_refuses_a_folder_with_something_in_it(workspace: Workspace) -> None:
    with pytest.raises(WrongUseError, match="is not empty"):
        initialise.run(workspace.root, preset="cpu", remote=None)


def test_a_commit_takes_its_paths_and_leaves_the_rest(workspace: Workspace) -> None:
    (workspace.root / "notes.txt").write_text("mine")
    subprocess.run(["git", "add", "notes.txt"], cwd=workspace.root, check=True)
    workspace.manifest.write_text(workspace.manifest.read_text() + "x\n")
    assert versioning.commit(workspace, versioning.OWN_INPUTS, "change")
    assert versioning.git(workspace, "show", "--name-only", "--format=", "HEAD") == "manifest.csv"
    assert versioning.hand_edits(workspace) == ["notes.txt"]
    assert not versioning.commit(workspace, versioning.OWN_INPUTS, "nothing")


def test_objects_lost_from_the_remote_are_found_although_dvc_says_all_is_well(workspace: Workspace) -> None:
    (workspace.masks / "m.tif").write_bytes(b"mask")
    versioning.track(workspace, "masks")
    versioning.push_objects(workspace)
    stored = [path for path in (workspace.remotes / "storage").rglob("*") if path.is_file() and path.suffix != ".dir"]
    lost = next(path for path in stored if path.read_bytes() == b"mask")
    lost.chmod(0o600)
    lost.unlink()
    assert versioning.missing_objects(workspace) == [f"storage:{lost.parent.name}{lost.name}"]
    with pytest.raises(OutsideSystemError, match="not in the DVC remote"):
        versioning.push_objects(workspace)


def test_an_object_that_a_killed_push_left_empty_is_sent_again(workspace: Workspace) -> None:
    """DVC makes an empty file before it asks whether the disk can share its bytes."""
    for name, content in (("m.tif", b"mask"), ("empty.tif", b"")):
        (workspace.masks / name).write_bytes(content)
    versioning.track(workspace, "masks")
    objects = workspace.remotes / "storage" / "files" / "md5"
    cut_off = objects / "f2" / "ce11ebf110993621bedd8e747d7b1b"  # MD5 of "mask"
    cut_off.parent.mkdir(parents=True)
    cut_off.touch()
    versioning.push_objects(workspace)
    assert cut_off.read_bytes() == b"mask"
    assert (objects / versioning.MD5_OF_NOTHING[:2] / versioning.MD5_OF_NOTHING[2:]).read_bytes() == b""
    versioning.push_objects(workspace)


KILLED_AT_ITS_LIST = """\
import os, sys
from sqltrie.sqlite import SQLiteTrie
of, left, write = sys.argv.pop(1), [int(sys.argv.pop(1))], SQLiteTrie.__setitem__

def killed(trie, key, value):
    left[0] -= key[0] == of
    if left[0] < 0:
        os._exit(137)
    write(trie, key, value)

SQLiteTrie.__setitem__ = killed
from dvc.cli import main
sys.exit(main(sys.argv[1:]))
"""
"""``dvc``, killed when it has written so many entries of one of its lists; each but the last is saved by then."""


def kill_dvc_at_its_list(workspace: Workspace, of: str, entries: int, *command: str) -> None:
    arguments = [sys.executable, "-c", KILLED_AT_ITS_LIST, of, str(entries), *command]
    assert subprocess.run(arguments, cwd=workspace.root, check=False).returncode == 137


@pytest.fixture
def _own_notes(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    """DVC keeps its lists where a command of ours has it keep them."""
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", str(workspace.state / "dvc-site"))


@pytest.mark.usefixtures("_own_notes")
def test_a_push_that_was_killed_at_its_list_is_done_whole_by_the_next(workspace: Workspace) -> None:
    for number in range(3):
        (workspace.videos / f"{number}.mkv").write_text(str(number))
    for folder in ("videos", "masks"):
        versioning.track(workspace, folder, remote="identified")
    kill_dvc_at_its_list(workspace, "push", 3, "push", *versioning.POINTERS)
    versioning.push_inputs(workspace)
    assert versioning.missing_objects(workspace) == []


@pytest.mark.usefixtures("_own_notes")
def test_a_checkout_that_was_killed_at_its_list_is_done_whole_by_the_next(workspace: Workspace) -> None:
    folders = ("one/masks", "two/masks", "three/masks")
    for folder in folders:
        (workspace.root / folder).mkdir(parents=True)
        (workspace.root / folder / "m.tif").write_text(folder)
        versioning.track(workspace, folder)
        shutil.rmtree(workspace.root / folder)
    pointers = [f"{folder}.dvc" for folder in folders]
    kill_dvc_at_its_list(workspace, "tree", 2, "checkout", *pointers)
    versioning.check_out(workspace, pointers)
    assert [(workspace.root / folder / "m.tif").read_text() for folder in folders] == [*folders]


def test_a_remote_in_a_bucket_holds_every_object_and_gives_it_back(bucket: str, tmp_path: Path) -> None:
    workspace = initialise.run(tmp_path / "w", preset="cpu", remote=f"s3://{bucket}/clinic")
    (workspace.masks / "m.tif").write_bytes(b"mask")
    versioning.track(workspace, "masks")
    versioning.push_objects(workspace)
    assert versioning.missing_objects(workspace) == []
    shutil.rmtree(workspace.root / ".dvc" / "cache")
    shutil.rmtree(workspace.masks)
    versioning.dvc(workspace, "pull", "--quiet", "masks")
    assert (workspace.masks / "m.tif").read_bytes() == b"mask"


def test_a_bucket_that_does_not_answer_is_no_end_of_a_retrain(workspace: Workspace) -> None:
    (workspace.masks / "m.tif").write_bytes(b"mask")
    versioning.track(workspace, "masks")
    versioning.dvc(workspace, "remote", "modify", "storage", "url", "s3://nobody/clinic")
    nobody = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_ENDPOINT_URL": "http://127.0.0.1:1"}
    nobody |= {"AWS_MAX_ATTEMPTS": "1"}
    with (
        mock.patch.dict(os.environ, nobody),
        pytest.raises(OutsideSystemError, match="storage cannot be asked") as told,
    ):
        versioning.missing_objects(workspace)
    assert told.value.transient


def test_a_remote_of_another_name_is_looked_into_too(workspace: Workspace) -> None:
    versioning.dvc(workspace, "remote", "rename", "storage", "hospital")
    (workspace.masks / "m.tif").write_bytes(b"mask")
    versioning.track(workspace, "masks")
    versioning.push_objects(workspace)
    assert versioning.missing_objects(workspace) == []


def test_a_clone_is_another_and_a_copy_is_the_same(workspace: Workspace, tmp_path: Path) -> None:
    mine = versioning.clone_id(workspace)
    subprocess.run(["cp", "-a", str(workspace.root), str(tmp_path / "copy")], check=True)
    subprocess.run(["git", "clone", "--quiet", str(workspace.root), str(tmp_path / "clone")], check=True)
    assert versioning.clone_id(Workspace(tmp_path / "copy")) == mine
    assert versioning.clone_id(Workspace(tmp_path / "clone")) != mine


def test_a_hand_edit_of_the_videos_is_not_overwritten_by_what_others_took_in(with_remotes: Workspace) -> None:
    workspace = with_remotes
    (workspace.videos / "v.mp4").write_bytes(b"one")
    versioning.track(workspace, "videos", remote="identified")
    versioning.push_objects(workspace)
    (workspace.videos / "v.mp4").unlink()
    (workspace.videos / "v.mp4").write_bytes(b"mine")
    with pytest.raises(OutsideSystemError):
        versioning.dvc(workspace, "pull", "--quiet", "videos.dvc")
    assert (workspace.videos / "v.mp4").read_bytes() == b"mine"


def test_what_dvc_could_not_do_is_told_with_its_cause_and_without_its_advertisement(workspace: Workspace) -> None:
    (workspace.root / "lost.dvc").write_text("outs: [{path: lost, md5: 0123456789abcdef0123456789abcdef}]\n")
    with pytest.raises(OutsideSystemError, match="lost") as refused:
        versioning.dvc(workspace, "pull", "lost.dvc")
    assert "support" not in str(refused.value)


@pytest.mark.parametrize(
    ("address", "elsewhere"),
    [("remotes/storage", False), ("{root}/kept", False), ("../backup", True), ("s3://bucket/clinic", True)],
)
def test_copies_elsewhere_are_those_that_the_loss_of_the_workspace_spares(
    workspace: Workspace, address: str, elsewhere: bool
) -> None:
    versioning.dvc(workspace, "remote", "modify", "storage", "url", address.format(root=workspace.root))
    assert versioning.keeps_copies_elsewhere(workspace) == elsewhere


def test_a_git_remote_is_a_copy_elsewhere(with_remotes: Workspace) -> None:
    assert versioning.keeps_copies_elsewhere(with_remotes)
