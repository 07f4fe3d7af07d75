"""What the documentation says is run: commands, example, links, tables, generated pages.

Every command of README.md stands in exactly one of RUN_HERE, SERVERS and RUN_ELSEWHERE.
"""

from __future__ import annotations

import ast
import contextlib
import csv
import importlib.util
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from pipelines.intake import incoming
from pipelines.package import model_code

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
BIN = Path(sys.executable).parent

RUN_HERE = {
    "source .venv/bin/activate": 0,
    "lclsc --help": 0,
    'lclsc init clinic --remote "$PWD/backup"': 0,
    "lclsc intake march --template": 0,
    "lclsc intake march --workspace clinic": 0,
    "lclsc intake --quarantine --workspace clinic": 0,
    "lclsc intake march --update --workspace clinic": 0,
    "lclsc intake drop --watch --once --settle 0 --workspace clinic": 0,
    "lclsc retrain --workspace clinic --dry-run": 0,
    "lclsc status --workspace clinic --verify": 0,
    "lclsc doctor --workspace clinic": 0,
    "lclsc intake april --workspace clinic": 0,
    "lclsc synth more --first-patient 6 --patients 1": 0,
    "LCLSC_KEY_FILE=pipelines/synth/published.key lclsc intake more --workspace demo": 0,
    "cd clinic": 0,
    "lclsc status --refresh-code": 0,
    "cd ..": 0,
    "lclsc status --workspace clinic --json": 0,
    "mkdir -p clips": 0,
    "cp march/glioma/p1/0.mp4 clips/clip.mp4": 0,
    """echo '{"dataframe_split": {"columns": ["video"], "data": [["clip.mp4"]]}}' > request.json""": 0,
    'export MLFLOW_TRACKING_URI="sqlite:///$PWD/clinic/mlflow.db"': 0,
}
"""Command -> its exit code; run in README's order in a folder laid out as README supposes."""

SERVERS = {
    'MLFLOW_DISABLE_TELEMETRY=true mlflow ui --backend-store-uri "sqlite:///$PWD/demo/mlflow.db" --port 5000': (
        "/health"
    ),
    (
        'PREFECT_HOME="$PWD/demo/.state/prefect" PREFECT_SERVER_API_AUTH_STRING="$(cat demo/.state/prefect/auth)" '
        "PREFECT_SERVER_ANALYTICS_ENABLED=false prefect server start --port 4200"
    ): "/api/health",
}
"""Command -> a path that answers; started here on a free port."""

MAIN_JOB = "tests/e2e/test_main_job.py"
AUDIT = "tests/e2e/test_audit.py"
FORGET = "tests/e2e/test_forget.py"
REPRODUCE = "tests/e2e/test_reproduce.py"
MONITOR = "tests/pipelines/test_monitor.py"
SERVE = "tests/pipelines/serving/test_serve.py"
RUN_ELSEWHERE = {
    "make demo": "tests/docs/test_docs.py::test_make_runs_what_readme_says",
    "make test": "tests/docs/test_docs.py::test_make_runs_what_readme_says",
    "lclsc predict demo-phantoms/metastasis/PHANTOM-MET-0004/1.mp4 --workspace demo --sheet saliency.png": (
        f"{MAIN_JOB}::test_predictions_are_those_of_mlflow_in_an_empty_folder"
    ),
    "lclsc predict demo-phantoms/metastasis/PHANTOM-MET-0004/1.mp4 --workspace demo --overlay overlay.mp4": (
        f"{MAIN_JOB}::test_predictions_are_those_of_mlflow_in_an_empty_folder"
    ),
    'lclsc retrain --workspace clinic --reason "first batch"': (
        f"{MAIN_JOB}::test_the_first_model_that_passes_the_gate_is_champion"
    ),
    "lclsc predict march/glioma/p1/0.mp4 --workspace clinic": (
        f"{MAIN_JOB}::test_predictions_are_those_of_mlflow_in_an_empty_folder"
    ),
    'lclsc retrain --workspace clinic --reason "second batch"': (
        f"{MAIN_JOB}::test_new_patients_make_a_challenger_and_only_they_are_decoded"
    ),
    "lclsc retrain --workspace demo": f"{MAIN_JOB}::test_new_patients_make_a_challenger_and_only_they_are_decoded",
    "lclsc promote 2 --workspace clinic": (
        f"{MAIN_JOB}::test_new_patients_make_a_challenger_and_only_they_are_decoded"
    ),
    'lclsc approve @challenger --by "A Reviewer" --reason "seen its page" --workspace clinic': (
        f"{MAIN_JOB}::test_new_patients_make_a_challenger_and_only_they_are_decoded"
    ),
    'lclsc rollback --reason "misses meningioma" --workspace clinic': (
        f"{MAIN_JOB}::test_new_patients_make_a_challenger_and_only_they_are_decoded"
    ),
    "lclsc history --workspace clinic": (f"{MAIN_JOB}::test_new_patients_make_a_challenger_and_only_they_are_decoded"),
    "lclsc audit @champion --workspace clinic": f"{AUDIT}::test_what_was_built_passes_and_nothing_is_written",
    "lclsc trace model @champion --workspace clinic": f"{AUDIT}::test_a_model_is_traced_to_its_patients_and_back",
    "lclsc diff 1 2 --workspace clinic": f"{MAIN_JOB}::test_new_patients_make_a_challenger_and_only_they_are_decoded",
    "lclsc reproduce @champion --workspace clinic": f"{REPRODUCE}::test_the_champion_is_rebuilt_byte_by_byte",
    "lclsc forget kdemo-ab7db3yv --workspace clinic": f"{FORGET}::test_no_byte_of_the_patients_frames_is_found",
    "lclsc gc --dry-run --workspace clinic": f"{FORGET}::test_gc_keeps_what_registered_versions_need",
    'LCLSC_SERVE_ROOT="$PWD/clips" lclsc serve --workspace clinic': (
        f"{SERVE}::test_a_video_beneath_the_root_is_answered_frame_by_frame"
    ),
    'curl -H "Content-Type: application/json" -d @request.json http://127.0.0.1:5001/invocations': (
        f"{SERVE}::test_a_video_beneath_the_root_is_answered_frame_by_frame"
    ),
    "lclsc monitor --workspace clinic": (
        f"{MONITOR}::test_the_reference_is_what_the_version_says_of_its_own_unseen_videos"
    ),
    "lclsc monitor --source intake --days 30 --workspace clinic": (
        f"{MONITOR}::test_new_intake_is_held_against_what_was_there_before"
    ),
    "curl http://127.0.0.1:5001/version": f"{SERVE}::test_a_promotion_loses_none_of_the_requests",
    "dvc repro": (f"{MAIN_JOB}::test_a_retrain_killed_twice_and_failed_once_is_finished_by_hand_with_the_same_bytes"),
    "lclsc retrain": f"{MAIN_JOB}::test_a_second_retrain_does_nothing_and_says_why",
    'LCLSC_SERVE_ROOT="$PWD/clips" mlflow models predict -m models:/lclsc@champion --env-manager local'
    " --content-type json --input-path request.json --output-path answer.json": (
        f"{MAIN_JOB}::test_predictions_are_those_of_mlflow_in_an_empty_folder"
    ),
}
"""Command that needs a whole retrain -> the test that runs it."""


def blocks(*languages: str) -> list[str]:
    return [
        text for language, text in re.findall(r"^```(\w+)\n(.*?)^```", README, re.M | re.S) if language in languages
    ]


def commands() -> list[str]:
    return [line.strip() for block in blocks("console", "bash", "sh", "shell") for line in block.splitlines() if line]


# --- commands --------------------------------------------------------------------------------------


def test_every_command_of_the_readme_is_run_by_a_test() -> None:
    places = [*RUN_HERE, *SERVERS, *RUN_ELSEWHERE]
    assert len(places) == len(set(places))
    assert sorted(set(commands())) == sorted(places)


def test_the_tests_named_for_other_commands_exist() -> None:
    for place in set(RUN_ELSEWHERE.values()):
        file, name = place.split("::")
        tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
        assert name in [node.name for node in tree.body if isinstance(node, ast.FunctionDef)], place


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone as README supposes it: an environment, a workspace ``demo``, and two batches of videos."""
    place = tmp_path_factory.mktemp("readme")
    (place / ".venv").symlink_to(BIN.parent)
    (place / "pipelines").symlink_to(ROOT / "pipelines")
    lclsc = str(BIN / "lclsc")
    subprocess.run([lclsc, "init", "demo", "--preset", "cpu"], cwd=place, check=True, capture_output=True)
    for batch, first in (("march", 0), ("april", 1)):
        options = ["--preset", "micro", "--patients", "1", "--first-patient", str(first)]
        subprocess.run([lclsc, "synth", batch, *options], cwd=place, check=True, capture_output=True)
    (place / "drop").mkdir()
    shutil.rmtree(place / "march" / "masks")
    for name in ("manifest.csv", "synth.json"):
        (place / "march" / name).unlink()
    for number, patient in enumerate(sorted((place / "march").glob("*/*")), start=1):
        patient.rename(patient.with_name(f"p{number}"))
    return place


def environment() -> dict[str, str]:
    """Without settings of outside systems: README speaks of a plain shell."""
    unwanted = ("MLFLOW", "PREFECT", "DVC_", "RAY_", "LCLSC_WORKERS", "LCLSC_STORAGE", "LCLSC_SERVE", "LCLSC_DEBUG")
    return {name: value for name, value in os.environ.items() if not name.startswith(unwanted)}


def test_readme_commands_do_what_they_say(folder: Path) -> None:
    """One shell, as a reader has it: ``cd`` and ``export`` last."""
    wanted = [command for command in commands() if command in RUN_HERE]
    script = "\n".join(f'{command}\necho "== $? {number}"' for number, command in enumerate(wanted))
    done = subprocess.run(
        ["bash", "-c", script], cwd=folder, env=environment(), text=True, capture_output=True, timeout=600, check=False
    )
    codes = {int(number): int(code) for code, number in re.findall(r"^== (\d+) (\d+)$", done.stdout, re.M)}
    assert codes == {number: RUN_HERE[command] for number, command in enumerate(wanted)}, done.stdout + done.stderr
    with (folder / "march" / "manifest.csv").open(encoding="utf-8") as file:
        drafted = {(row["path"], row["label"], row["patient_id"]) for row in csv.DictReader(file)}
    assert ("glioma/p1/0.mp4", "glioma", "p1") in drafted
    with (folder / "clinic" / "manifest.csv").open(encoding="utf-8") as file:
        assert len(list(csv.DictReader(file))) == 6
    with (folder / "demo" / "manifest.csv").open(encoding="utf-8") as file:
        assert {row["patient_id"].split("-")[0] for row in csv.DictReader(file)} == {"kdemo"}
    assert "hold every object" in done.stdout
    request = json.loads((folder / "request.json").read_text())
    assert request["dataframe_split"]["columns"] == ["video"]
    assert (folder / "clips" / request["dataframe_split"]["data"][0][0]).is_file()


def test_make_runs_what_readme_says() -> None:
    """``make demo`` is init, synth, intake and retrain, which the end-to-end tests run; ``make test`` is pytest."""
    recipes = {
        target: subprocess.run(["make", "-n", target], cwd=ROOT, text=True, capture_output=True, check=True).stdout
        for target in ("demo", "test")
    }
    assert re.findall(r"bin/lclsc (\w+)", recipes["demo"]) == ["init", "synth", "intake", "retrain"]
    assert re.search(r"bin/pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder$", recipes["test"], re.M)


@pytest.mark.slow
@pytest.mark.parametrize("command", SERVERS)
def test_pages_of_mlflow_and_prefect_open_on_this_machine_only(command: str, tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (tmp_path / "demo" / ".state" / "prefect").mkdir(parents=True)
    (tmp_path / "demo" / ".state" / "prefect" / "auth").write_text("lclsc:word\n")
    moved = re.sub(r"--port \d+", f"--port {port}", command)
    with server(moved, tmp_path) as process:
        answer = wait_for(f"http://127.0.0.1:{port}{SERVERS[command]}", process, tmp_path / "log")
        assert answer == 200
        if "prefect" in command:
            with pytest.raises(urllib.error.HTTPError, match="401"):
                urllib.request.urlopen(f"http://127.0.0.1:{port}/api/version", timeout=20)
        family = [process, *process.children(recursive=True)]
        listening = [one for member in family for one in member.net_connections() if one.status == psutil.CONN_LISTEN]
        assert {one.laddr.ip for one in listening if one.laddr.port == port} == {"127.0.0.1"}


@contextlib.contextmanager
def server(command: str, folder: Path) -> Iterator[psutil.Process]:
    path = os.pathsep.join([str(BIN), os.environ["PATH"]])
    with (folder / "log").open("w") as log:
        process = psutil.Popen(
            ["bash", "-c", f"{command}\n"],
            cwd=folder,
            env=environment() | {"PATH": path, "MLFLOW_WORKERS": "1"},  # of four, three only take time to start
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            yield process
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def wait_for(url: str, process: psutil.Process, log: Path) -> int:
    """The status of the first answer."""
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline and process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
        with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=5) as answer:
            return int(answer.status)
        time.sleep(0.5)
    raise AssertionError(log.read_text())


# --- text ------------------------------------------------------------------------------------------


def test_the_python_example_learns(tmp_path: Path) -> None:
    (example,) = blocks("python")
    done = subprocess.run(
        [sys.executable, "-c", example],
        cwd=tmp_path,
        env=environment() | {"OMP_NUM_THREADS": "1"},
        text=True,
        capture_output=True,
        check=True,
    )
    assert float(done.stdout.split(":")[1]) > 0.9


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_and_pictures_are_there(page: Path) -> None:
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        linked = (page.parent / path).resolve() if path else page
        assert linked.exists(), target
        if anchor:
            assert anchor in anchors(linked), target


def anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_pictures_are_small() -> None:
    for picture in (ROOT / "docs" / "images").iterdir():
        assert picture.stat().st_size < 300_000, picture.name


def test_the_reference_is_what_the_code_says() -> None:
    spec = importlib.util.spec_from_file_location("docs_generate", ROOT / "docs" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    generate = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generate)
    for path, text in generate.pages().items():
        assert path.read_text(encoding="utf-8") == text, "run: python docs/generate.py"


def test_the_manifest_table_lists_the_columns_intake_reads() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (yes|no) \| (.*) \|$", README, re.M)
    assert {name for name, required, _ in rows if required == "yes"} == set(incoming.REQUIRED)
    assert {name for name, required, _ in rows if required == "no"} == set(incoming.OPTIONAL)
    words = next(text for name, _, text in rows if name == "path")
    assert {f".{word}" for word in re.findall(r"\w+", words)} >= incoming.VIDEO_SUFFIXES


def test_named_versions_are_the_locked_ones() -> None:
    (line,) = re.findall(r"^Tested with: (.*?)\. `", README, re.M)
    locked = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    for name, version in re.findall(r"(\w+) ([\d.]+)", line):
        assert re.search(rf"^{name}=={re.escape(version)}(\+\w+)?$", locked, re.M), name


def test_named_variables_are_read_by_the_code() -> None:
    named = set(re.findall(r"LCLSC_[A-Z_]+", README))
    sources = [
        path.read_text(encoding="utf-8") for part in ("flows", "pipelines") for path in (ROOT / part).rglob("*.py")
    ]
    assert {name for name in named if not any(f'"{name}"' in text for text in sources)} == set()
    assert model_code.SERVE_ROOT in named


def test_decisions_are_numbered_and_have_their_parts() -> None:
    records = sorted((ROOT / "docs" / "decisions").glob("*.md"))
    assert [int(record.name[:4]) for record in records] == list(range(1, len(records) + 1))
    for record in records:
        text = record.read_text(encoding="utf-8")
        assert text.startswith(f"# {record.name[:4]} "), record.name
        parts = re.findall(r"^\*\*(Context|Decision|Non-goals|Consequences)\.\*\*", text, re.M)
        assert parts == ["Context", "Decision", "Non-goals", "Consequences"], record.name
