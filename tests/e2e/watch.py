"""One command, two batches, one idle minute: what came of them with nobody touching anything.

Run    python -m e2e.watch            in tests/; from a fresh workspace, with real schedules of a minute
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
import time
from pathlib import Path

import yaml
from e2e.line import Line, draw_batches, micro_workspace
from e2e.served import Served, served

WAIT_SECONDS = 1200.0


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="lclsc-watch-") as folder:
        place = Path(folder)
        line = _fresh(place)
        with served(line, place / "drop") as service:
            say(f"serving, on port {service.port}; nothing is there yet")
            batch(place, service, "first", version="1")
            batch(place, service, "more", version="2")
            idle(service)
            idle_retrain(service)
            approve(service)
            by_a_worker(service)
            assert service.strangers == set()
            assert service.stop() == 0
        again(line, service)
    say("done: two batches made two versions, an idle minute made nothing, and the history outlived a restart")


def _fresh(place: Path) -> Line:
    line = micro_workspace(place / "w", place / "patients.key")
    line.tool("git", "commit", "--quiet", "--all", "--message", "A micro preset")
    draw_batches(place)
    return line


def batch(place: Path, service: Served, name: str, *, version: str) -> None:
    """Copy a batch in; wait until its version is registered."""
    say(f"copying the batch {name} into the drop folder")
    shutil.copytree(place / name, service.drop / name)
    result = service.wait_for(lambda: _version(service.line, version), WAIT_SECONDS)
    say(f"version {version}: {result['status']}, aliases {result['aliases']}")
    assert result["status"] == "registered"
    expected = ["champion"] if version == "1" else ["challenger"]
    assert result["aliases"] == expected, result["aliases"]


def _version(line: Line, version: str) -> dict[str, object] | None:
    last: dict[str, object] | None = line.json("status")["last_result"]
    return last if last and last["version"] == version else None


def idle(service: Served) -> None:
    """After two more passes of intake nothing has run and nothing has changed."""
    service.wait_for(lambda: set(service.runs("retrain")) == {"Completed"}, WAIT_SECONDS)
    before = (len(service.runs("retrain")), service.line.tool("git", "rev-parse", "HEAD"))
    passes = len(service.runs("intake"))
    service.wait_for(lambda: len(service.runs("intake")) >= passes + 2, 300)
    assert before == (len(service.runs("retrain")), service.line.tool("git", "rev-parse", "HEAD"))
    say("two more passes: nothing came, nothing ran")


def idle_retrain(service: Served) -> None:
    """Asked for twice with nothing to do: two status checks."""
    for _ in range(2):
        command = ("prefect", "--profile", "lclsc", "deployment", "run", "retrain/retrain")
        service.line.tool(*command, extra={"PREFECT_HOME": str(service.home)})
    service.wait_for(lambda: service.runs("retrain")[2:] == ["Completed", "Completed"], 300)
    assert service.line.json("status")["last_result"]["version"] == "2"
    say(f"two retrains with nothing to do took {service.seconds('retrain')[2:]} s in their flows")


def approve(service: Served) -> None:
    """A person's word from Prefect's CLI; a word without a name is refused before anything runs."""
    decision = {"decision": {"by": "Dr. Ada Weber", "reason": "better on the new site"}}
    command = ("prefect", "--profile", "lclsc", "deployment", "run", "approve/approve", "--params")
    service.line.tool(*command, json.dumps(decision), extra={"PREFECT_HOME": str(service.home)})
    service.wait_for(lambda: service.runs("approve") == ["Completed"], 300)
    moves = service.line.json("history")
    assert moves["aliases"] == {"champion": "2"}
    assert moves["moves"][-1]["by"] == "Dr. Ada Weber"
    say(f"approved through Prefect in {service.seconds('approve')[0]} s: version 2 is champion")


def by_a_worker(service: Served) -> None:
    """An entry of prefect.yaml under a name of its own, registered for a work pool: a worker runs what is asked for."""
    line, profile = service.line, ("prefect", "--profile", "lclsc")
    extra = {"PREFECT_HOME": str(service.home), "PREFECT_DEFAULT_WORK_POOL_NAME": "gpu-box", "PWD": str(line.root)}
    document = yaml.safe_load((line.root / "prefect.yaml").read_text())
    (entry,) = [entry for entry in document["deployments"] if entry["name"] == "monitor"]
    document["deployments"] = [entry | {"name": "by-a-worker", "schedules": []}]
    (line.root / ".state" / "worker.yaml").write_text(yaml.safe_dump(document))
    line.tool(*profile, "work-pool", "create", "gpu-box", "--type", "process", extra=extra)
    deploy = ("prefect", "--no-prompt", *profile[1:], "deploy", "--all", "--prefect-file", ".state/worker.yaml")
    line.tool(*deploy, extra=extra)
    line.tool(*profile, "deployment", "run", "monitor/by-a-worker", "--param", "source=intake", extra=extra)
    line.tool(*profile, "worker", "start", "--pool", "gpu-box", "--run-once", extra=extra)
    service.wait_for(lambda: service.runs("monitor") == ["Completed"], 300)
    say("a worker of the pool gpu-box ran monitor")


def again(line: Line, service: Served) -> None:
    """A second service on the same workspace shows what the first one did."""
    with served(line, service.drop) as second:
        assert len(second.api("flow_runs/filter", {"flows": {"name": {"any_": ["retrain"]}}, "limit": 50})) >= 2


def say(line: str) -> None:
    print(f"{time.strftime('%H:%M:%S')}  {line}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
