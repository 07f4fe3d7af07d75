"""A retrain on three Ray nodes without a common disk, one of them killed half way: the bytes of one machine.

Run    make cluster        about ten minutes; needs `unshare` (util-linux)

The node of the driver sees the workspace. The two others run in mount namespaces in which an empty file system covers
it, so whatever secretly relied on a shared disk fails. Checkpoints go to a bucket of an S3 server on this machine.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
from e2e import servers
from e2e.line import Line, draw_batches, micro_workspace

NODE = str(servers.ROOT / "deploy" / "ray-node.sh")
CHECKPOINTS = "checkpoints"
WAIT_SECONDS = 1800.0
HEAD, *OTHERS = ("127.0.0.11", "127.0.0.12", "127.0.0.13")
"""All on loopback. Not 127.0.0.1: Ray takes the machine's own address for that."""


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="lclsc-cluster-") as name, servers.buckets(CHECKPOINTS):
        place = Path(name)
        draw_batches(place)
        (place / "hidden").mkdir()
        spread = taken_in(place, place / "hidden" / "w")
        alone = spread.copy(place / "w")
        with three_nodes(place / "hidden", place / "token") as cluster:
            say(f"three nodes, the first at {cluster.address}")
            spread.environment |= cluster.environment
            refused_without_storage(spread)
            assert cluster.struck_retrain(spread, place / "log")["status"] == "registered"
        say("the same on this machine alone")
        assert alone.json("retrain")["status"] == "registered"
        same_outputs(spread, alone)


def taken_in(place: Path, root: Path, *options: str) -> Line:
    """A workspace with the first batch of ``place``."""
    line = micro_workspace(root, place / "patients.key", *options)
    line.tool("git", "commit", "--quiet", "--all", "--message", "A micro preset")
    line.json("intake", str(place / "first"))
    return line


def refused_without_storage(line: Line) -> None:
    """A cluster that shares nothing is told so before it trains."""
    own = line.copy(line.root.parent / "without")
    own.environment = {name: value for name, value in line.environment.items() if name != "LCLSC_STORAGE"}
    failed = own.json("retrain", expect=3)
    assert failed["error"]["code"] == "storage_not_shared", failed
    say(f"without LCLSC_STORAGE: {failed['error']['cause']}")


def same_outputs(spread: Line, alone: Line) -> None:
    assert spread.outputs() == alone.outputs()
    restarts = json.loads((spread.root / ".state" / "training.json").read_text())["restarts"]
    assert restarts >= 1
    say(f"the same bytes as on one machine; restarts of the training: {restarts}")


class Cluster:
    """Three nodes; ``environment`` leads a command to them."""

    def __init__(self, port: int, token: Path) -> None:
        self.address = f"{HEAD}:{port}"
        self.nodes: list[subprocess.Popen[bytes]] = []
        # A cluster that is no process's own asks for no password unless it is told to.
        self.access = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token), "RAY_USAGE_STATS_ENABLED": "0"}
        endpoint = os.environ["AWS_ENDPOINT_URL"].removeprefix("http://")
        self.environment = self.access | {
            "RAY_ADDRESS": self.address,
            "LCLSC_STORAGE": f"s3://{CHECKPOINTS}/ray?scheme=http&endpoint_override={endpoint}",
            "LCLSC_WORKERS": "2",
            "LCLSC_CHECKPOINT_SECONDS": "0",
        }

    def start(self, *options: str, before: str = "", log: Path) -> None:
        """A node by the script of deploy/; ``before``: a command of the shell, in a mount namespace of its own."""
        command = [NODE, self.access["RAY_AUTH_TOKEN_PATH"], *options]
        if before:
            as_root = [] if os.geteuid() == 0 else ["--map-root-user"]
            command = ["unshare", "--mount", *as_root, "sh", "-c", f"{before} && exec {shlex.join(command)}"]
        with log.open("wb") as file:
            node = subprocess.Popen(command, start_new_session=True, stdout=file, stderr=file)
        self.nodes.append(node)

    def wait_for(self, count: int) -> None:
        code = f"import ray; ray.init('{self.address}', logging_level='ERROR'); print(len(ray.nodes()))"
        deadline = time.monotonic() + 300
        while time.monotonic() < deadline:
            asked = subprocess.run(
                [sys.executable, "-c", code], env=os.environ | self.access, capture_output=True, text=True, check=False
            )
            if asked.stdout.strip() == str(count):
                return
            assert [node.poll() for node in self.nodes] == [None] * len(self.nodes)
            time.sleep(1)
        raise AssertionError(f"not {count} nodes: {asked.stdout}{asked.stderr[-2000:]}")

    def struck_retrain(self, line: Line, log: Path) -> dict[str, object]:
        """A retrain during which the node at work is killed; what it says."""
        answer = log.with_suffix(".json")
        with log.open("w") as told, answer.open("w") as said:
            retrain = line.start("retrain", "--json", stdout=said, stderr=told)
        try:
            say(f"killed {self._kill_one_at_work(retrain, log)}, where the training was")
            assert retrain.wait(timeout=WAIT_SECONDS) == 0, log.read_text() + answer.read_text()
        finally:
            kill(retrain)
        return dict(json.loads(answer.read_text()))

    def _kill_one_at_work(self, retrain: subprocess.Popen[str], log: Path) -> str:
        """SIGKILL of a whole node on which the training runs, once it has a checkpoint to go on from."""
        deadline = time.monotonic() + WAIT_SECONDS
        while time.monotonic() < deadline:
            assert retrain.poll() is None, f"over before a node could be killed:\n{log.read_text()}"
            working = [number for number, node in enumerate(self.nodes[1:]) if _trains(node)]
            if working and _has_checkpoint():
                kill(self.nodes[1:][working[0]])
                return OTHERS[working[0]]
            time.sleep(0.05)
        raise AssertionError("no training was seen on the two nodes")


@contextlib.contextmanager
def three_nodes(hidden: Path, token: Path) -> Iterator[Cluster]:
    """A cluster of which two nodes see an empty folder at ``hidden``."""
    cluster = Cluster(servers.free_port(), token)
    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp") as folder:
        logs = Path(folder)
        port = cluster.address.rpartition(":")[2]
        head = ["--port", port, "--num-cpus", "1", "--temp-dir", folder]
        try:
            cluster.start(HEAD, *head, log=logs / "head.log")
            cluster.wait_for(1)
            blind = f"mount -t tmpfs none {shlex.quote(str(hidden))}"
            for ip in OTHERS:
                join = [ip, cluster.address, "--num-cpus", "2"]
                cluster.start(*join, before=blind, log=logs / f"{ip}.log")
                cluster.wait_for(len(cluster.nodes))  # two at the same time would take the same names for their sockets
            yield cluster
        finally:
            for node in cluster.nodes:
                kill(node)


def _trains(node: subprocess.Popen[bytes]) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        children = psutil.Process(node.pid).children(recursive=True)
        return any("RayTrainWorker" in " ".join(child.cmdline()) for child in children)
    return False


def _has_checkpoint() -> bool:
    return any(name.endswith("checkpoint_manager_snapshot.json") for name in servers.names_in(CHECKPOINTS))


def kill(leader: subprocess.Popen[bytes] | subprocess.Popen[str]) -> None:
    """With everything that it started; Ray's agents have sessions of their own."""
    with contextlib.suppress(psutil.NoSuchProcess):
        for process in [psutil.Process(leader.pid), *psutil.Process(leader.pid).children(recursive=True)]:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGKILL)
    leader.wait()


def say(line: str) -> None:
    print(f"{time.strftime('%H:%M:%S')}  {line}", flush=True)


if __name__ == "__main__":
    main()
