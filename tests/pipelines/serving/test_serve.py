"""The command with a real registry and real models: MLflow's own server answers, through a promotion and to the end."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipelines import lineage, registry
from pipelines.registry import Registry, Submission
from pipelines.workspace import Workspace, template_file

pytestmark = pytest.mark.slow

REQUESTS = 60
LCLSC = str(Path(sys.executable).with_name("lclsc"))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a space in its name, as users have them."""
    return tmp_path_factory.mktemp("serve") / "a workspace"


@pytest.fixture(scope="module")
def store(
    root: Path, empty_database: Path, make_model: Callable[..., None], make_package: Callable[..., Path]
) -> Iterator[Registry]:
    """Two versions of untrained models; the first is champion."""
    from pipelines.files import write_bytes, write_json

    write_json(root / "workspace.json", {"format": 1, "key_id": None})
    write_bytes(root / "params.yaml", template_file("params.yaml").read_bytes())
    write_bytes(root / "mlflow.db", empty_database.read_bytes())
    subprocess.run(["git", "init", "--quiet", str(root)], check=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        made = registry.connect(Workspace.open(root), "lclsc")
        for seed in (1, 2):
            model = Workspace(root.parent / f"model {seed}")
            make_model(model.weights.parent, seed=seed)
            package = make_package(model, model.root / "package")
            assert lineage.verify_package(package)
            made.register(
                Submission(key=str(seed) * 64, train_key="t" * 64, data_version="0123456789ab", package=package)
            )
        made.set_alias("champion", "1")
        yield made


class Server:
    """``lclsc serve`` in a process of its own."""

    def __init__(self, root: Path, log: Path, *options: str, **extra: str) -> None:
        unwanted = ("MLFLOW", "LCLSC_")
        kept = {name: value for name, value in os.environ.items() if not name.startswith(unwanted)}
        self.log = log
        with log.open("w") as errors:
            self.process = subprocess.Popen(
                [LCLSC, "serve", "--workspace", str(root), "--port", "0", "--poll", "0.2", "--json", *options],
                env=kept | extra,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                start_new_session=True,
                cwd=root.parent,
            )

    def wait(self) -> Server:
        """Until it answers."""
        assert self.process.stdout is not None
        said = "".join(iter(self.process.stdout.readline, "}\n")) + "}"
        assert said != "}", self.log.read_text()
        self.client = httpx.Client(base_url=json.loads(said)["address"], timeout=120, trust_env=False)
        return self

    def ask(self, **table: list[Any]) -> httpx.Response:
        rows = [list(row) for row in zip(*table.values(), strict=True)]
        return self.client.post("/invocations", json={"dataframe_split": {"columns": list(table), "data": rows}})

    def family(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)


@contextlib.contextmanager
def serving(root: Path, log: Path, *options: str, **extra: str) -> Iterator[Server]:
    server = Server(root, log, *options, **extra)
    try:
        yield server.wait()
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.process.pid, signal.SIGKILL)
        server.process.wait()


@pytest.fixture(scope="module")
def server(root: Path, store: Registry, make_clip: Callable[..., Path]) -> Iterator[Server]:
    make_clip(root.parent / "clips" / "clip.mp4", frames=6, dark=2)
    make_clip(root.parent / "secret.mp4")
    (root.parent / "clips" / "link.mp4").symlink_to(root.parent / "secret.mp4")
    with serving(root, root.parent / "log", LCLSC_SERVE_ROOT="clips") as server:
        yield server


def picture(seed: int = 0) -> str:
    target = io.BytesIO()
    values = np.random.default_rng(seed).integers(20, 230, (40, 40), dtype=np.uint8)
    Image.fromarray(values).save(target, format="PNG")
    return base64.b64encode(target.getvalue()).decode()


def test_images_are_answered_as_the_package_answers(server: Server, store: Registry) -> None:
    from pipelines.inference import load_classifier, prepare_image
    from pipelines.package.model_code import decode_png

    rows = server.ask(image=[picture(1), picture(2)]).raise_for_status().json()["predictions"]
    version = store.version("1")
    assert version is not None
    classifier = load_classifier(store.download(version) / "artifacts" / "model")
    for seed, row in enumerate(rows, start=1):
        image_SS, fov_SS = prepare_image(classifier, decode_png(picture(seed)))
        expected = classifier.predict(image_SS[None], fov_SS[None])
        assert list(row["probabilities"].values()) == pytest.approx(expected.probabilities_NK[0], abs=1e-5)
        assert row["class"] == classifier.classes[expected.predicted_N[0]]
        assert isinstance(row["reject"], bool)
        assert decode_png(row["saliency"]).shape == image_SS.shape


def test_a_video_beneath_the_root_is_answered_frame_by_frame(server: Server) -> None:
    rows = server.ask(video=["clip.mp4"]).raise_for_status().json()["predictions"]
    assert [row["frame_index"] for row in rows] == [0, 1, 2, 3], "dark frames have no row"


@pytest.mark.parametrize(
    ("request_", "cause"),
    [
        ({"dataframe_split": {"columns": ["video"], "data": [["../secret.mp4"]]}}, "beneath"),
        ({"dataframe_split": {"columns": ["video"], "data": [["link.mp4"]]}}, "beneath"),
        ({"dataframe_split": {"columns": ["video"], "data": [["missing.mp4"]]}}, "no such video"),
        ({"dataframe_split": {"columns": ["video"], "data": [["http://127.0.0.1/x.mp4"]]}}, "never read"),
        ({"dataframe_split": {"columns": ["video"], "data": [["clip.mp4"], ["clip.mp4"]]}}, "Send one"),
        ({"dataframe_split": {"columns": ["image"], "data": [["%%%"]]}}, "not a PNG"),
        ({"dataframe_split": {"columns": ["image"], "data": [[7]]}}, "image"),
        ({"dataframe_split": {"columns": ["image"], "data": [[None]]}}, "not a PNG"),
        ({"dataframe_split": {"columns": ["image", "image"], "data": [["a", "b"]]}}, ""),
        ({"dataframe_split": {"columns": ["image", "video"], "data": [["a", "b"]]}}, "exactly one"),
        ({"dataframe_split": {"columns": ["frame"], "data": [["a"]]}}, "exactly one"),
        ({"dataframe_split": {"columns": ["image"]}}, "data"),
        ({"dataframe_records": []}, "exactly one"),
        ({"instances": 3}, ""),
        ({"nothing": 1}, "dataframe_split"),
        ([1, 2], "dictionary"),
        ("text", ""),
    ],
)
def test_a_bad_request_is_told_its_cause(server: Server, request_: Any, cause: str) -> None:
    answer = server.client.post("/invocations", json=request_)
    assert (answer.status_code, answer.headers["x-lclsc-version"]) == (400, "1"), answer.text
    assert cause in answer.json()["message"]
    assert "Traceback" not in answer.text
    assert "stack_trace" not in answer.text


@pytest.mark.parametrize(
    ("content", "kind", "status"),
    [
        (b"{", "application/json", 400),
        (b"\xff\xfe", "application/json", 400),
        (b"", "application/json", 400),
        (b"image\n%%%\n", "text/csv", 400),
        (b"not parquet", "application/vnd.apache.parquet", 400),
        (b"{}", "text/plain", 415),
        (b"{}", "application/json; charset=latin-1", 415),
        (b"{}", ";;;", 415),
    ],
)
def test_bytes_that_are_no_table_are_refused(server: Server, content: bytes, kind: str, status: int) -> None:
    answer = server.client.post("/invocations", content=content, headers={"content-type": kind})
    assert answer.status_code == status, answer.text
    assert answer.json()["message"]
    assert "Traceback" not in answer.text


def test_it_listens_on_this_machine_alone_and_the_model_on_no_port(server: Server) -> None:
    family = [psutil.Process(server.process.pid), *server.family()]
    listening = [one for member in family for one in member.net_connections() if one.status == psutil.CONN_LISTEN]
    assert [one.laddr.ip for one in listening] == ["127.0.0.1"]


def test_a_promotion_loses_none_of_the_requests(server: Server, store: Registry) -> None:
    answers: list[httpx.Response] = []

    def ask_on(number: int) -> None:
        for _ in range(REQUESTS):
            answers.append(server.ask(image=[picture(3)]))
            if seen() == {"1", "2"} and len(answers) >= REQUESTS:
                return
            time.sleep(0.3)

    def seen() -> set[str]:
        return {answer.headers.get("x-lclsc-version", "") for answer in answers}

    clients = [threading.Thread(target=ask_on, args=(number,)) for number in range(2)]
    for client in clients:
        client.start()
    store.set_alias("champion", "2")
    for client in clients:
        client.join()
    assert len(answers) >= REQUESTS
    assert {answer.status_code for answer in answers} == {200}
    told: dict[str, set[str]] = {}
    for answer in answers:
        told.setdefault(answer.headers["x-lclsc-version"], set()).add(answer.text)
    assert set(told) == {"1", "2"}
    assert [len(texts) for texts in told.values()] == [1, 1], "one version, one answer, to the last digit"
    assert told["1"].isdisjoint(told["2"])
    found = server.client.get("/version").json()
    version = store.version("2")
    assert version is not None
    assert (found["version"], found["weights_sha256"]) == ("2", version.tags["weights_sha256"])


@pytest.mark.parametrize("share", [0.5, 1.0], ids=["while it sends", "while it waits"])
def test_a_client_that_hangs_up_leaves_nothing_behind(server: Server, share: float) -> None:
    body = json.dumps({"dataframe_split": {"columns": ["image"], "data": [[picture(n)] for n in range(100)]}}).encode()
    head = "POST /invocations HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    address = (server.client.base_url.host, server.client.base_url.port or 0)
    with socket.create_connection(address) as client:
        client.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body[: int(share * len(body))])
        wait_until(lambda: server.client.get("/health").json()["under_way"] == 1)
    wait_until(lambda: server.client.get("/health").json()["under_way"] == 0)
    assert server.ask(image=[picture(1)]).status_code == 200


def wait_until(what: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_sigterm_lets_it_finish_what_it_began_and_note_it(server: Server, root: Path) -> None:
    """Last of this server's tests."""
    answers: list[httpx.Response] = []
    many = threading.Thread(target=lambda: answers.append(server.ask(image=[picture(n) for n in range(200)])))
    many.start()
    time.sleep(0.3)
    family = server.family()
    assert family
    server.process.send_signal(signal.SIGTERM)
    many.join()
    assert (len(answers[0].json()["predictions"]), server.process.wait(60)) == (200, 0)
    assert not [member for member in family if member.is_running()]
    noted = pa.concat_tables(
        pq.read_table(path) for path in (root / ".state" / "serving").glob("*.parquet")
    ).to_pylist()
    assert {row["version"] for row in noted} == {"1", "2"}
    assert max(Counter(row["source"] for row in noted if row["version"] == "2").values()) >= 200


def test_the_model_dies_with_its_front_door(root: Path, store: Registry) -> None:
    with serving(root, root.parent / "killed.log", "--model", "1") as server:
        family = server.family()
        server.process.kill()
        assert family
        assert not psutil.wait_procs(family, timeout=20)[1]


def test_what_cannot_be_served_is_an_error_with_a_remedy(root: Path, store: Registry) -> None:
    for option, code in (("--model=@best", "no_alias"), ("--host=0.0.0.0", "open_server")):
        done = subprocess.run(
            [LCLSC, "serve", "--workspace", str(root), "--port", "0", "--json", option], capture_output=True, text=True
        )
        assert done.returncode == 2, done.stderr
        assert json.loads(done.stdout)["error"]["code"] == code
