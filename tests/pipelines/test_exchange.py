"""Two clones and the git host between them, and one that is silent: real git, real DVC."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
from pathlib import Path

import psutil
import pytest

from pipelines import exchange, ledger, versioning
from pipelines.errors import OutsideSystemError
from pipelines.workspace import Workspace


def shared(workspace: Workspace, tmp_path: Path) -> Workspace:
    """A second clone over a bare repository, which both have as ``origin``."""
    host = tmp_path / "origin.git"
    subprocess.run(["git", "clone", "--quiet", "--bare", str(workspace.root), str(host)], check=True)
    versioning.git(workspace, "remote", "add", "origin", str(host))
    subprocess.run(["git", "clone", "--quiet", str(host), str(tmp_path / "other")], check=True)
    other = Workspace(tmp_path / "other")
    other.videos.mkdir()
    other.masks.mkdir()
    return other


@pytest.fixture
def other(workspace: Workspace, tmp_path: Path) -> Workspace:
    return shared(workspace, tmp_path)


def commit(place: Workspace, name: str, text: str) -> str:
    path = place.root / name
    path.write_text((path.read_text() if path.exists() else "") + text)
    versioning.commit(place, [name], f"{name} of {place.root.name}")
    return versioning.head(place)


def text(place: Workspace, name: str) -> str:
    return (place.root / name).read_text()


def test_a_longer_history_is_taken(workspace: Workspace, other: Workspace) -> None:
    commit(other, "params.yaml", "# theirs\n")
    exchange.push(other)
    exchange.take_over(workspace)
    assert versioning.head(workspace) == versioning.head(other)
    exchange.push(workspace)  # nothing of its own
    assert exchange.is_pushed(workspace)


def test_a_push_joins_what_others_pushed_and_leaves_the_files_as_they_are(
    workspace: Workspace, other: Workspace
) -> None:
    theirs = commit(other, "params.yaml", "# theirs\n")
    exchange.push(other)
    mine = commit(workspace, "code.json", "\n")
    before = text(workspace, "params.yaml")
    exchange.push(workspace)
    assert (versioning.head(workspace), text(workspace, "params.yaml")) == (mine, before)
    assert exchange.is_pushed(workspace)
    assert versioning.git(workspace, "status", "--porcelain") == ""

    later = commit(workspace, "ledger.jsonl", "")  # a training that is registered pushes again
    exchange.push(workspace)
    for place in (workspace, other):
        exchange.take_over(place)
        assert "# theirs" in text(place, "params.yaml")
        assert text(place, "code.json").endswith("}\n\n")
        for commit_id in (mine, theirs, later):
            assert versioning.is_ancestor(place, commit_id, "HEAD")
    assert versioning.head(workspace) == versioning.head(other)


def test_commits_of_a_time_without_the_host_are_joined_when_it_is_back(workspace: Workspace, other: Workspace) -> None:
    commit(other, "params.yaml", "# theirs\n")
    exchange.push(other)
    mine = commit(workspace, "manifest.csv", "\n")
    (workspace.root / "notes.txt").write_text("in nobody's way")
    exchange.take_over(workspace)
    assert "# theirs" in text(workspace, "params.yaml")
    assert versioning.is_ancestor(workspace, mine, "HEAD")
    exchange.push(workspace)
    assert versioning.git(other, "ls-remote", "origin", "main").startswith(versioning.head(workspace))


@pytest.mark.parametrize("is_committed", [True, False], ids=["committed", "edited"])
def test_a_file_that_both_changed_is_named_and_left(workspace: Workspace, other: Workspace, is_committed: bool) -> None:
    commit(other, "params.yaml", "# theirs\n")
    exchange.push(other)
    if is_committed:
        commit(workspace, "params.yaml", "# mine\n")
    else:
        (workspace.params).write_text(text(workspace, "params.yaml") + "# mine\n")
    before = versioning.head(workspace), text(workspace, "params.yaml")
    with pytest.raises(OutsideSystemError, match=r"holds: params\.yaml\.") as told:
        exchange.take_over(workspace)
    assert (told.value.code, told.value.transient) == ("history_diverged", False)
    assert (versioning.head(workspace), text(workspace, "params.yaml")) == before
    if is_committed:
        with pytest.raises(OutsideSystemError, match=r"holds: params\.yaml\."):
            exchange.push(workspace)


def test_what_a_person_merged_is_taken(workspace: Workspace, other: Workspace) -> None:
    theirs = commit(other, "params.yaml", "# theirs\n")
    exchange.push(other)
    mine = commit(workspace, "params.yaml", "# mine\n")
    versioning.git(workspace, "fetch", "origin")
    with pytest.raises(OutsideSystemError, match="CONFLICT"):
        versioning.git(workspace, "merge", "origin/main")
    workspace.params.write_text("# both\n")
    versioning.git(workspace, "commit", "--all", "--quiet", "--message", "Both")
    versioning.git(workspace, "push", "origin", "HEAD:main")
    for place in (workspace, other):
        exchange.take_over(place)
        assert text(place, "params.yaml") == "# both\n"
        assert all(versioning.is_ancestor(place, one, "HEAD") for one in (mine, theirs))


def test_two_clones_that_both_wrote_the_ledger_are_never_joined(workspace: Workspace, other: Workspace) -> None:
    for place in (workspace, other):
        ledger.append(place, actor="intake", event="taken_in", subject=place.root.name, data={})
        versioning.commit(place, ["ledger.jsonl"], "take in")
    exchange.push(other)
    with pytest.raises(OutsideSystemError, match=r"ledger\.jsonl"):
        exchange.push(workspace)


def test_a_host_that_takes_no_push_is_told_as_it_is(workspace: Workspace, other: Workspace, tmp_path: Path) -> None:
    hook = tmp_path / "origin.git" / "hooks" / "pre-receive"
    hook.write_text("#!/bin/sh\necho protected branch\nexit 1\n")
    hook.chmod(0o755)
    commit(workspace, "params.yaml", "# mine\n")
    with pytest.raises(OutsideSystemError, match="protected branch"):
        exchange.push(workspace)


@pytest.mark.parametrize(("limit", "silence", "said"), [(1.0, "60", "no answer within"), (60.0, "1", "too slow")])
def test_a_git_host_that_never_answers_is_one_that_is_away(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, limit: float, silence: str, said: str
) -> None:
    monkeypatch.setattr(versioning, "GIT_SECONDS", limit)
    monkeypatch.setenv("GIT_HTTP_LOW_SPEED_TIME", silence)
    with socket.create_server(("127.0.0.1", 0)) as mute:
        address = f"http://127.0.0.1:{mute.getsockname()[1]}/clinic.git"
        versioning.git(workspace, "remote", "add", "origin", address)
        for talk in (exchange.take_over, exchange.push):
            with pytest.raises(OutsideSystemError, match=said) as told:
                talk(workspace)
            assert told.value.transient
        left = [one for one in psutil.process_iter(["cmdline"]) if address in (one.info["cmdline"] or ())]
    assert left == []


def test_a_second_clone_fetches_the_bytes_that_others_took_in(with_remotes: Workspace, tmp_path: Path) -> None:
    workspace = with_remotes
    other = shared(workspace, tmp_path)
    for content in (b"one", b"two"):
        (workspace.videos / "v.mp4").write_bytes(content)
        versioning.track(workspace, "videos", remote="identified")
        versioning.commit(workspace, versioning.OWN_INPUTS, "take in")
        versioning.push_objects(workspace)
        exchange.push(workspace)
        exchange.take_over(other)
        assert (other.videos / "v.mp4").read_bytes() == content


def test_bytes_that_a_killed_take_over_did_not_fetch_are_fetched_by_the_next(
    with_remotes: Workspace, tmp_path: Path
) -> None:
    workspace = with_remotes
    versioning.push_inputs(workspace)
    other = shared(workspace, tmp_path)
    (workspace.videos / "v.mp4").write_bytes(b"one")
    versioning.track(workspace, "videos", remote="identified")
    versioning.commit(workspace, versioning.OWN_INPUTS, "take in")
    versioning.push_objects(workspace)
    exchange.push(workspace)

    away = tmp_path / "away"
    shutil.move(tmp_path / "remotes", away)
    for _ in range(2):
        with pytest.raises(OutsideSystemError):
            exchange.take_over_if_there(other)  # its tables name a video that is not here
        assert not (other.videos / "v.mp4").exists()
    shutil.move(away, tmp_path / "remotes")
    exchange.take_over_if_there(other)
    assert (other.videos / "v.mp4").read_bytes() == b"one"


def test_a_merge_that_was_killed_half_way_is_finished(workspace: Workspace, other: Workspace) -> None:
    """git writes files and index before HEAD: they look like edits, and are what is to come."""
    commit(other, "params.yaml", "# theirs\n")
    (other.root / "notes.txt").write_text("new\n")
    commit(other, "notes.txt", "")
    exchange.push(other)
    versioning.git(workspace, "fetch", "origin")
    versioning.git(workspace, "update-index", "--refresh")  # a copied workspace
    versioning.git(workspace, "read-tree", "-m", "-u", "HEAD", "origin/main")
    exchange.take_over(workspace)
    assert versioning.head(workspace) == versioning.head(other)
    assert versioning.git(workspace, "status", "--porcelain") == ""


def test_histories_that_share_nothing_are_told(workspace: Workspace, tmp_path: Path) -> None:
    stranger = tmp_path / "stranger"
    subprocess.run(["git", "init", "--quiet", "--initial-branch", "main", str(stranger)], check=True)
    commit(Workspace(stranger), "README", "another project\n")
    versioning.git(workspace, "remote", "add", "origin", str(stranger))
    with pytest.raises(OutsideSystemError, match="no commit in common"):
        exchange.take_over(workspace)


def test_outputs_that_a_remote_no_longer_holds_are_made_again(with_remotes: Workspace, tmp_path: Path) -> None:
    """After a patient was forgotten, dvc.lock names their shards until the next training."""
    workspace = with_remotes
    for path in (workspace.frames, workspace.root / "models"):
        path.mkdir(parents=True)
        (path / "one").write_bytes(b"an output")
    outputs = {"stages": {"extract": {"cmd": "true", "outs": ["data/frames", "models"]}}}
    workspace.dvc_yaml.write_text(json.dumps(outputs))
    versioning.push_inputs(workspace)
    versioning.commit(workspace, ["dvc.yaml"], "A stage")
    other = shared(workspace, tmp_path)
    versioning.dvc(workspace, "commit", "--force", "extract")
    versioning.push_objects(workspace)
    versioning.commit(workspace, ["dvc.lock"], "Built")
    exchange.push(workspace)

    storage = tmp_path / "remotes" / "storage"
    away = storage.rename(tmp_path / "away")
    with pytest.raises(OutsideSystemError):
        exchange.take_over(other)
    exchange.take_over_if_there(other)  # an intake needs none of it
    away.rename(storage)
    for path in (storage / "files" / "md5").glob("??/*"):
        if not path.name.endswith(".dir"):
            path.unlink()
    exchange.take_over(other)
    assert versioning.head(other) == versioning.head(workspace)
