"""The main job on real video files, through the command line, as a user would do it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import av
import leaks
import psutil
import pytest
from e2e import unreliable
from e2e.line import Line

from pipelines import evaluate, params
from pipelines.files import read_json
from pipelines.workspace import Workspace

pytestmark = pytest.mark.slow


def test_the_first_model_that_passes_the_gate_is_champion(built: Line) -> None:
    assert built.json("status")["last_result"]["aliases"] == ["champion"]
    for name in ("dvc.lock", "models/model.safetensors", "reports/report.html", "reports/gate.json"):
        assert (built.root / name).is_file()
    assert len(list((built.root / "data" / "frames").glob("*.parquet"))) == 15


def test_everything_is_committed_and_in_the_remotes(built: Line) -> None:
    assert built.tool("git", "status", "--porcelain") == ""
    findings = {finding["name"]: finding for finding in built.json("doctor")["findings"]}
    assert findings["DVC remotes"]["found"] == "hold every object"


def test_raw_videos_go_to_the_identified_remote_alone(built: Line) -> None:
    listed = built.tool("git", "show", "HEAD:videos.dvc")
    assert "remote: identified" in listed
    videos = {path.stat().st_size for path in (built.root / "videos").iterdir()}
    stored = {path.stat().st_size for path in (built.root / "remotes" / "storage").rglob("*") if path.is_file()}
    assert videos
    assert not videos & stored


def test_a_second_retrain_does_nothing_and_says_why(built: Line) -> None:
    before = built.tool("git", "rev-parse", "HEAD")
    started = time.monotonic()
    report = built.json("retrain")
    print(f"up to date after {time.monotonic() - started:.1f} s")
    assert (report["status"], report["version"]) == ("up_to_date", "1")
    assert {stage["state"] for stage in report["stages"].values()} == {"skipped"}
    assert built.tool("git", "rev-parse", "HEAD") == before
    assert built.json("retrain", "--dry-run") == {"schema": "plan/1", "up_to_date": True, "stale": {}}


def test_every_figure_but_those_of_corrupted_frames_is_told_by_the_predictions(built: Line) -> None:
    workspace = Workspace(built.root)
    stored = read_json(workspace.stage_report("evaluate"))
    again = evaluate.recompute(workspace, params.load(workspace.params).evaluate)
    assert stored["robustness"]["frames"] == 3
    for section in ("metrics", "intervals"):
        assert stored[section].pop("corrupted_accuracy", "absent") != "absent"
    assert again == {name: stored[name] for name in stored if name not in ("robustness", "weights_sha256")}


def test_no_raw_identity_leaves_intake(built: Line) -> None:
    """Outside the identified zone: not in git, tables, shards, MLflow, Prefect, logs or reports."""
    zone = [built.root / name for name in ("videos", "quarantine", "remotes/identified", ".dvc/cache")]
    assert leaks.found(built.root, ["PHANTOM-GLI-", "PHANTOM-HEA-", "PHANTOM-MEN-"], zone=zone) == []


def test_new_patients_make_a_challenger_and_only_they_are_decoded(grown: tuple[Line, Any], tmp_path: Path) -> None:
    line, report = grown[0].copy(tmp_path / "workspace"), grown[1]
    assert {name: report["stages"]["extract"][name] for name in ("new", "reused", "removed")} == {
        "new": 3,
        "reused": 15,
        "removed": 0,
    }
    assert (report["status"], report["version"], report["aliases"]) == ("registered", "2", ["challenger"])
    assert report["champion"]["version"] == "1"
    assert set(report["champion"]["metrics"]) <= set(report["metrics"])
    page = line.root / "reports" / "report.html"
    for words in ("3 videos added; 3 patients added", 'alt="Champion. Frame', "Champion against challenger by class"):
        assert words in page.read_text(), words
    changed = line.json("diff", "1", "2")
    assert (len(changed["videos"]["added"]), len(changed["patients"]["added"]), changed["params"]) == (3, 3, [])
    assert changed["metrics"]
    page.unlink()
    judged = line.json("promote", "2")
    assert (judged["version"], judged["aliases"], judged["page"]) == ("2", ["challenger"], str(page))
    assert page.exists()
    person = ("--by", "A Reviewer", "--reason", "seen its page")
    approved = line.json("approve", "@challenger", *person, "--evidence", judged["gate_sha256"][:12])
    assert (approved["status"], approved["version"], approved["before"]) == ("approved", "2", "1")
    back = line.json("rollback", *person)
    assert (back["status"], back["version"], back["before"]) == ("rolled_back", "1", "2")
    moves = line.json("history")
    assert moves["aliases"] == {"champion": "1"}
    assert line.json("audit", "--all")["verdict"] == "pass"


def test_predictions_are_those_of_mlflow_in_an_empty_folder(built: Line, tmp_path: Path) -> None:
    video = sorted((built.root / "videos").iterdir())[0]
    sheet = tmp_path / "sheet.png"
    film = tmp_path / "film.mp4"
    ours = built.json("predict", str(video), "--sheet", str(sheet), "--overlay", str(film))
    assert sheet.read_bytes().startswith(b"\x89PNG")
    with av.open(str(film)) as container:
        assert len(list(container.decode(video=0))) == len(ours["frames"])
    empty = tmp_path / "empty"
    empty.mkdir()
    request = tmp_path / "request.json"
    request.write_text(json.dumps({"dataframe_split": {"columns": ["video"], "data": [[str(video)]]}}))
    built.tool(
        *("mlflow", "models", "predict", "--model-uri", "models:/lclsc@champion", "--env-manager", "local"),
        *("--input-path", str(request), "--content-type", "json", "--output-path", str(tmp_path / "answer.json")),
        cwd=empty,
        extra={
            "MLFLOW_TRACKING_URI": f"sqlite:///{built.root}/mlflow.db",
            "LCLSC_SERVE_ROOT": str(video.parent),
            "MLFLOW_DISABLE_TELEMETRY": "true",
        },
    )
    rows = json.loads((tmp_path / "answer.json").read_text())["predictions"]
    kept = [frame for frame in ours["frames"] if frame["keep"]]
    assert [(row["frame_index"], row["class"]) for row in rows] == [
        (frame["frame_index"], frame["class"]) for frame in kept
    ]
    assert list(empty.iterdir()) == []


def test_a_moved_workspace_goes_on(built: Line, tmp_path: Path) -> None:
    line = built.copy(tmp_path / "elsewhere")
    assert line.json("retrain")["status"] == "up_to_date"
    video = sorted((line.root / "videos").iterdir())[0]
    assert line.json("predict", str(video))["version"] == "1"


def test_a_retrain_killed_twice_and_failed_once_is_finished_by_hand_with_the_same_bytes(
    taken_in: Line, built: Line, tmp_path: Path
) -> None:
    """Killed in extract, killed in train, stopped by a parameter that a stage cannot work with.

    DVC alone ends the stages, with one worker, which changes no byte either; the next retrain registers what they made,
    once, whatever becomes of what Prefect's server is asked and answers.
    """
    line = taken_in.copy(tmp_path / "workspace")
    line.environment["LCLSC_CHECKPOINT_SECONDS"] = "0"  # after every step: training goes on mid-epoch
    for stage in ("extract", "train"):
        process = line.start("retrain", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        _wait_until_at_work(line, process, stage)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    del line.environment["LCLSC_CHECKPOINT_SECONDS"]
    _fail_with_a_reason(line)
    by_hand = {"DVC_SITE_CACHE_DIR": str(tmp_path / "site"), "LCLSC_WORKERS": "1"}
    line.tool("dvc", "repro", "--quiet", extra=by_hand)
    assert line.lock() == built.lock()
    with unreliable.prefect(tmp_path / "prefect") as prefect:
        line.environment["PREFECT_API_URL"] = f"http://127.0.0.1:{prefect.port}/api"
        report = line.json("retrain")
        assert set(prefect.struck) == set(unreliable.FAULTS.values()), prefect.posts
    del line.environment["PREFECT_API_URL"]
    assert (report["status"], report["version"]) == ("registered", "1")
    assert {stage["state"] for stage in report["stages"].values()} == {"skipped"}
    assert line.lock() == built.lock()
    assert (_restarts(line), _restarts(built)) == (1, 0)
    assert line.json("retrain")["status"] == "up_to_date"
    assert _processes_of(line) == []


def _fail_with_a_reason(line: Line) -> None:
    """A stage that fails says why in one place; its parameter is mended afterwards."""
    line.set_params(split={"min_patients": 99})
    done = line.run("retrain", "--json", expect=3)
    report = json.loads(done.stdout)
    assert (report["status"], report["error"]["code"]) == ("failed", "too_few_classes")
    assert "Traceback" not in done.stderr
    line.set_params(split={"min_patients": 3})


def _restarts(line: Line) -> int:
    """How often training was taken up again, as the lineage records."""
    (record,) = line.root.glob("mlartifacts/models/**/lineage.json")
    return int(json.loads(record.read_text())["training"]["restarts"])


def test_errors_have_a_cause_a_remedy_and_their_exit_code(built: Line, tmp_path: Path) -> None:
    source = Path(__file__).parents[2]
    done = subprocess.run(
        [str(Path(sys.executable).with_name("lclsc")), "retrain", "--json", "--workspace", str(source)],
        text=True,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 2
    assert json.loads(done.stdout)["error"]["code"] == "source_tree"
    line = built.copy(tmp_path / "workspace")
    line.set_params(train={"top_share": 0.9})
    assert "train.top_share" in line.run("retrain", expect=2).stderr
    assert "Traceback" not in line.run("predict", "nothing.mp4", expect=2).stderr


def _wait_until_at_work(line: Line, process: subprocess.Popen[str], stage: str) -> None:
    """Extraction: some shards are there, not all. Training: Ray has noted a checkpoint that it will resume from."""
    pattern, word = {
        "extract": ("data/frames/[0-9a-f]*.parquet", b""),
        "train": (".state/ray/*/checkpoint_manager_snapshot.json", b'"checkpoint_dir_name"'),
    }[stage]
    deadline = time.monotonic() + 600
    while not any(word in path.read_bytes() for path in line.root.glob(pattern)):
        assert process.poll() is None, "the retrain ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.02)


def _processes_of(line: Line) -> list[str]:
    """Processes that still carry this workspace's mark."""
    found = []
    for process in psutil.process_iter():
        try:
            marks = process.environ()
            if marks.get("LCLSC_OWNER", "").endswith(f":{line.root}") or str(line.root) in marks.get(
                "PREFECT_HOME", ""
            ):
                found.append(process.name())
        except (psutil.AccessDenied, psutil.NoSuchProcess, psutil.ZombieProcess):
            continue
    return found
