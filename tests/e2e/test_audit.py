"""Audit of a workspace that was really built: quiet on what is sound, and every mutation found and named."""

from __future__ import annotations

import contextlib
import json
import random
import shutil
import stat
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any

import pytest
from bad_disk import change_a_byte
from e2e.line import LCLSC, Line
from faults import mutations

from flows import remedies
from pipelines import code_digest, ledger, locks, manifest, object_stores, register, registry, versioning
from pipelines.errors import OutsideSystemError
from pipelines.evidence import audit, trace
from pipelines.evidence.commit import TABLES
from pipelines.evidence.object_checks import Sample
from pipelines.workspace import Workspace

pytestmark = pytest.mark.slow


def audited(root: Path) -> audit.AuditReport:
    return audit.run(Workspace(root), [], sample=Sample(), record=False)


def test_what_was_built_passes_and_nothing_is_written(built: Line, tmp_path: Path) -> None:
    before = _state(built.root)
    page = tmp_path / "audit.html"
    report = built.json("audit", "@champion", "--html", str(page))
    assert "objects in remote" in page.read_text()
    assert (report["verdict"], report["targets"]) == ("pass", ["version 1"])
    names = {check["name"] for check in report["checks"]}
    assert names >= {"objects_in_remote", "lineage_copies", "aliases", "weights"}
    assert names <= remedies.REMEDIES.keys()
    assert _state(built.root) == before


def _state(root: Path) -> dict[str, tuple[int, int]]:
    files = (path for path in root.rglob("*") if path.is_file() and ".state" not in path.parts)
    return {str(path.relative_to(root)): (path.stat().st_size, path.stat().st_mtime_ns) for path in files}


def test_stored_frames_are_derived_again_from_the_videos(built: Line, tmp_path: Path) -> None:
    line = built.copy(tmp_path / "workspace")  # git appends to its logs: hard links would lead back to the original
    assert _verdict_on_pixels(line, "@champion") == ["pass"]
    (line.root / "code.json").write_text("{}")
    line.tool("git", "commit", "--quiet", "--all", "--message", "other code")
    assert _verdict_on_pixels(line, "HEAD") == ["unknown"]


def test_data_that_was_only_taken_in_has_no_frames_that_other_code_could_change(
    built: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace = Workspace(built.root)
    monkeypatch.setattr(code_digest, "current", lambda: {"extract": "of a later version"})
    (taken_in,) = versioning.commits_touching(workspace, ("manifest.csv",))[:1]
    assert _verdict_on_pixels(built, taken_in) == ["pass"]
    data_version = manifest.data_version(workspace.manifest, workspace.splits)
    assert _verdict_on_pixels(built, data_version) == _verdict_on_pixels(built, "@champion") == ["unknown"]


def _verdict_on_pixels(line: Line, name: str) -> list[str]:
    report = audit.run(Workspace(line.root), [name], deep=True, sample=Sample(size=1), record=False)
    return [check.verdict for check in report.checks if check.name == "pixels"]


def test_every_name_of_a_target_leads_to_its_checks(built: Line) -> None:
    commit = built.json("audit", "1", "--sample", "5")
    assert any(check["object"].startswith("5 of ") for check in commit["checks"])
    version = built.json("status")["data_version"]
    report = built.json("audit", version, built.tool("git", "rev-parse", "HEAD").strip())
    assert report["verdict"] == "pass"
    assert report["targets"][0] == f"data version {version}"
    assert built.json("audit", "17", expect=2)["error"]["code"] == "no_such_target"


@pytest.mark.parametrize("seed", range(len(mutations.MUTATORS)))
def test_a_mutation_is_found_and_named(built: Line, tmp_path: Path, seed: int) -> None:
    root = mutations.copy(built.root, tmp_path / "workspace")
    mutation = mutations.mutate(root, seed)
    report = audited(root)
    failed = [check for check in report.checks if check.verdict == "fail"]
    assert report.verdict == "fail", mutation
    assert remedies.of(check.name for check in failed), mutation
    assert [check for check in failed if mutation.object in check.object or mutation.object in check.found], mutation


def test_a_byte_that_changed_in_its_place_is_named_and_the_remedy_helps(built: Line, tmp_path: Path) -> None:
    line = built.copy(tmp_path / "workspace")
    change_a_byte(next(path for path in (line.root / ".dvc" / "cache").rglob("*") if path.is_file()))
    report = line.json("audit", "@champion", expect=1)
    assert [check["name"] for check in report["checks"] if check["verdict"] == "fail"] == ["objects_in_cache"]
    (mended,) = [one for one in line.json("doctor", "--deep", "--repair")["findings"] if one["name"] == "DVC objects"]
    assert mended["found"] == "1 replaced by a sound copy"
    assert line.json("audit", "@champion")["verdict"] == "pass"


def test_an_alias_that_a_user_set_is_the_users(built: Line, tmp_path: Path) -> None:
    line = built.copy(tmp_path / "workspace")
    registry.connect(Workspace(line.root)).set_alias("in-the-reading-room", "1")
    assert audited(line.root).verdict == "pass"
    assert audit.run(Workspace(line.root), ["@in-the-reading-room"], sample=Sample(), record=False).targets == [
        "version 1"
    ]


def test_many_audits_leave_no_open_database_behind(built: Line) -> None:
    """MLflow keeps an engine for every address it opened, and each audit's copy has its own."""
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    before = len(SqlAlchemyStore._engine_map)
    for _ in range(3):
        audited(built.root)
    assert len(SqlAlchemyStore._engine_map) == before


@pytest.fixture
def read_only(built: Line, tmp_path: Path) -> Iterator[Path]:
    """A moved copy whose files nobody may write, as on a medium or a snapshot."""
    root = Path(shutil.copytree(built.root, tmp_path / "moved copy", symlinks=True))
    paths = [root, *root.rglob("*")]
    for path in paths:
        path.chmod(stat.S_IMODE(path.stat().st_mode) & ~0o222)
    yield root
    for path in paths:
        path.chmod(stat.S_IMODE(path.stat().st_mode) | 0o200)


def test_a_read_only_moved_copy_can_be_audited(read_only: Path) -> None:
    assert audited(read_only).verdict == "pass"


def test_an_audit_works_while_somebody_else_holds_the_workspace(built: Line, tmp_path: Path) -> None:
    root = mutations.copy(built.root, tmp_path / "workspace")
    with locks.one_writer(Workspace(root)):
        assert audited(root).verdict == "pass"


@contextlib.contextmanager
def _held(workspace: Workspace, _: Line) -> Iterator[None]:
    with locks.one_writer(workspace):
        yield


@contextlib.contextmanager
def _over(_: Workspace, line: Line) -> Iterator[None]:
    line.tool("git", "commit", "--quiet", "--allow-empty", "--message", "what a retrain leaves")
    yield


@contextlib.contextmanager
def _nobody(_: Workspace, __: Line) -> Iterator[None]:
    yield


@pytest.mark.parametrize(("by", "verdict"), [(_held, "unknown"), (_over, "unknown"), (_nobody, "fail")])
def test_what_a_retrain_writes_that_began_after_the_audit_is_unknown(
    built: Line,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    by: Callable[[Workspace, Line], AbstractContextManager[None]],
    verdict: str,
) -> None:
    """It holds the workspace still, or is over and has committed, when the audit finds what it wrote."""
    line = built.copy(tmp_path / "workspace")
    workspace = Workspace(line.root)

    def written_meanwhile(*arguments: Any, **options: Any) -> Iterator[audit.Check]:
        yield from check_objects(*arguments, **options)
        mutations.replace(workspace.train_table, b"another table")
        (page,) = line.root.glob("mlartifacts/*/artifacts/report.html")
        mutations.replace(page, b"another page")

    check_objects = audit.check_objects
    monkeypatch.setattr(audit, "check_objects", written_meanwhile)
    with ExitStack() as stack:
        hash_places = audit.check_places

        def found_late(*arguments: Any, **options: Any) -> Iterator[audit.Check]:
            stack.enter_context(by(workspace, line))
            yield from hash_places(*arguments, **options)

        monkeypatch.setattr(audit, "check_places", found_late)
        report = audited(line.root)
    found = {check.name: check.verdict for check in report.checks if check.verdict != "pass"}
    assert found == {"objects_in_place": verdict, "page_kept": verdict}


def test_a_table_that_is_edited_while_a_retrain_begins_is_unknown(
    built: Line, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the first look at the workspace and git's."""
    line = built.copy(tmp_path / "workspace")
    workspace = Workspace(line.root)
    with ExitStack() as stack:
        changed_files = versioning.changed_files

        def changed_late(*arguments: Any) -> list[str]:
            stack.enter_context(locks.one_writer(workspace))
            mutations.replace(workspace.manifest, workspace.manifest.read_bytes() + b"\n")
            return changed_files(*arguments)

        monkeypatch.setattr(versioning, "changed_files", changed_late)
        report = audited(line.root)
    assert [(c.name, c.verdict) for c in report.checks if c.verdict != "pass"] == [("clean", "unknown")]


def test_an_audit_ends_in_words_whatever_was_committed(built: Line, tmp_path: Path) -> None:
    """Broken settings, tables and a broken dvc.lock in the last commit: exit 1 and the file's name."""
    line = built.copy(tmp_path / "workspace")
    for name, content in (
        ("params.yaml", b"register:\n"),
        ("params.yaml", b"train: ["),
        ("dvc.lock", b"stages: ["),
        ("dvc.lock", b"stages: 1"),
        ("dvc.lock", b"\xff"),
        ("manifest.csv", b"\xff"),
        ("videos.dvc", b"outs: 1"),
    ):
        before = (line.root / name).read_bytes()
        mutations.replace(line.root / name, content)
        line.tool("git", "commit", "--quiet", "--all", "--message", "broken")
        report = audit.run(Workspace(line.root), ["HEAD", "1"], sample=Sample(), record=False)
        failed = [check for check in report.checks if check.verdict == "fail"]
        target = report.targets[0]
        assert [c for c in failed if name in c.found or name in c.object or c.object == target], (name, content)
        mutations.replace(line.root / name, before)
        line.tool("git", "commit", "--quiet", "--all", "--message", "mended")
    mutations.replace(line.root / "params.yaml", b"register:\n")
    line.tool("git", "commit", "--quiet", "--all", "--message", "broken")
    report = line.json("audit", "@champion", expect=1)
    assert [(c["name"], c["object"]) for c in report["checks"] if c["verdict"] == "fail"] == [
        ("settings", "params.yaml")
    ]


def test_a_lineage_record_of_another_shape_fails(built: Line, tmp_path: Path) -> None:
    root = mutations.copy(built.root, tmp_path / "workspace")
    (path,) = root.glob("mlartifacts/models/*/artifacts/lineage.json")
    for changed in ({"params": []}, {"data": None}, {"dvc_lock": 7}, {"metrics": []}):
        mutations.replace(path, json.dumps(json.loads(path.read_bytes()) | changed).encode())
        failed = [check.object for check in audited(root).checks if check.verdict == "fail"]
        assert "lineage.json in the package" in failed


def test_a_version_whose_commit_nobody_tells_fails_beside_others(built: Line, tmp_path: Path) -> None:
    root = mutations.copy(built.root, tmp_path / "workspace")
    mutations._version_tag_deleted("git_commit")(root, random.Random(0))
    lines = (root / "ledger.jsonl").read_bytes().splitlines(keepends=True)
    mutations.replace(root / "ledger.jsonl", b"".join(line for line in lines if b'"registered"' not in line))
    report = audit.run(Workspace(root), ["1", "HEAD"], sample=Sample(), record=False)
    (lost,) = (check for check in report.checks if (check.name, check.verdict) == ("commit", "fail"))
    assert "tag git_commit of version 1" in lost.found
    assert len(report.targets) == 1


def test_a_version_that_was_evaluated_again_still_passes(built: Line, tmp_path: Path) -> None:
    """New test patients renew key, data version and figures of a version, and the ledger says so."""
    workspace = Workspace(built.copy(tmp_path / "workspace").root)
    store = registry.connect(workspace)
    key = "e" * 64
    register._evaluated_again(workspace, store, store.versions()[0], key)
    store.set_version_tag("1", registry.KEY, key)
    assert audited(workspace.root).verdict == "pass"
    store.set_version_tag("1", registry.KEY, "f" * 64)
    failed = [check.object for check in audited(workspace.root).checks if check.verdict == "fail"]
    assert failed == [f"tag {registry.KEY} of version 1"]


def test_settings_of_dvc_that_nobody_can_read_are_named(built: Line, tmp_path: Path) -> None:
    root = mutations.copy(built.root, tmp_path / "workspace")
    mutations.replace(root / ".dvc" / "config", b"['remote")
    report = audited(root)
    assert [check.object for check in report.checks if check.verdict == "fail"] == [".dvc/config"]


def test_a_recording_that_stands_in_two_splits_under_two_names_is_found(built: Line, tmp_path: Path) -> None:
    """Intake would have set it aside: here one video's fingerprint is given to a video of another split."""
    root = mutations.copy(built.root, tmp_path / "workspace")
    of_split = {row["split"]: row["video_id"] for row in audit.head(Workspace(root)).commit.tables}
    kept = {split: next(root.glob(f".state/near_copies/*/{video}.npy")) for split, video in of_split.items()}
    mutations.replace(kept["train"], kept["test"].read_bytes())
    (problem,) = (check for check in audited(root).checks if check.verdict == "fail")
    assert (problem.name, problem.object) == ("patients_disjoint", f"video {of_split['test']}, in test")
    assert of_split["train"] in problem.found


def test_lost_fingerprints_are_computed_from_the_videos_and_not_kept(built: Line, tmp_path: Path) -> None:
    root = mutations.copy(built.root, tmp_path / "workspace")
    shutil.rmtree(root / ".state" / "near_copies")
    assert audited(root).verdict == "pass"
    assert not (root / ".state" / "near_copies").exists()


def test_a_lost_remote_is_unknown_and_does_not_pass(built: Line, tmp_path: Path) -> None:
    root = mutations.copy(built.root, tmp_path / "workspace")
    (root / "remotes").rename(root / "elsewhere")
    report = audited(root)
    assert report.verdict == "unknown"
    assert {check.name for check in report.checks if check.verdict != "pass"} == {"objects_in_remote"}


def test_a_recorded_audit_is_an_event_of_the_ledger(built: Line, tmp_path: Path) -> None:
    line = built.copy(tmp_path / "workspace")
    line.run("audit", "--all", "--record")
    event = ledger.read(line.root / "ledger.jsonl")[-1]
    assert (event.event, event.subject, event.data["verdict"]) == ("audited", "version 1", "pass")
    assert line.json("audit")["verdict"] == "pass"


def test_a_model_is_traced_to_its_patients_and_back(built: Line) -> None:
    model = built.json("trace", "model", "@champion")
    assert (model["id"], len(model["videos"]), model["withdrawn"]) == ("1", 15, [])
    video = model["videos"][0]
    for kind, name in (
        ("patient", video["patient_id"]),
        ("video", video["video_id"][:8]),
        ("frame", video["video_id"] + ":3"),
    ):
        answer = built.json("trace", kind, name)
        assert [(one["version"], one["roles"], one["aliases"]) for one in answer["versions"]] == [
            ("1", [video["role"]], ["champion"])
        ]
    assert answer["shards"] == [video["shard"]]
    assert built.json("trace", "frame", video["video_id"] + ":99", expect=2)["error"]["code"] == "no_frame"
    assert built.json("trace", "video", "0000", expect=2)["error"]["code"] == "ambiguous"


def test_the_trace_index_is_made_again_when_it_is_lost(built: Line, tmp_path: Path) -> None:
    root = mutations.copy(built.root, tmp_path / "workspace")
    before = trace.run(Workspace(root), "model", "1")
    (root / ".state" / "trace.sqlite").write_bytes(b"not a database, and longer than the header of one would be" * 3)
    assert trace.run(Workspace(root), "model", "1") == before


def test_tables_that_cannot_be_read_now_are_not_remembered_as_unused(built: Line, tmp_path: Path) -> None:
    root = mutations.copy(built.root, tmp_path / "workspace")
    workspace, storage = Workspace(root), root / "remotes" / "storage"
    before = trace.run(workspace, "model", "1")
    (root / ".state" / "trace.sqlite").unlink()
    shutil.rmtree(root / ".dvc" / "cache")
    storage.rename(root / "elsewhere")
    with pytest.raises(OutsideSystemError, match="cannot be asked"):
        trace.run(workspace, "model", "1")
    (root / "elsewhere").rename(storage)
    assert trace.run(workspace, "model", "1") == before


def test_of_lost_tables_every_video_that_may_have_stood_in_them_is_named(built: Line, tmp_path: Path) -> None:
    root = mutations.copy(built.root, tmp_path / "workspace")
    workspace = Workspace(root)
    known = {video["video_id"]: video["role"] for video in trace.run(workspace, "model", "1")["videos"]}
    commit = audit.head(workspace).commit
    for path in TABLES:
        for store in (root / ".dvc" / "cache", root / "remotes" / "storage"):
            (store / object_stores.place(commit.outs[path]["md5"])).unlink()
    (root / ".state" / "trace.sqlite").unlink()
    found = {video["video_id"]: video["role"] for video in trace.run(workspace, "model", "1")["videos"]}
    assert found.items() >= known.items()
    assert trace.run(workspace, "frame", f"{min(known)}:3")["shards"] == []


def test_a_raw_patient_id_comes_from_standard_input_only(built: Line) -> None:
    command = [LCLSC, "trace", "patient", "--raw", "--json", "--workspace", str(built.root)]
    done = subprocess.run(
        command, input="PHANTOM-GLI-0001\n", env=built.environment, capture_output=True, text=True, check=True
    )
    patient_id = json.loads(done.stdout)["id"]
    assert patient_id in (built.root / "splits.csv").read_text()
    assert "PHANTOM" not in done.stdout
