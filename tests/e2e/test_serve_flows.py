"""The service: a batch in the drop folder starts a retrain, everything stays on this machine, and it ends clean.

The whole line, up to a second challenger, takes minutes: ``make watch-demo``.
"""

from __future__ import annotations

import shutil
import stat
from pathlib import Path

import psutil
import pytest
import receiver as receivers
from e2e.line import Line
from e2e.served import Served, served

from micro import MICRO
from pipelines import locks
from pipelines.workspace import Workspace

pytestmark = pytest.mark.slow


def _power_cut(service: Served) -> None:
    """The service and all it started are gone at once; it starts again."""
    for process in service.family()[::-1]:
        process.kill()
    assert service.process is not None
    service.process.wait(timeout=60)
    (service.home / "server.json").unlink()
    service.start()


def _has_met(service: Served) -> bool:
    """Whether the workers of a training have found each other: one of them listens to the others."""
    workers = [one for one in service.family() if one.name() == "ray::RayTrainWorker"]
    return any(end.status == psutil.CONN_LISTEN for worker in workers for end in worker.net_connections("tcp"))


def _kill_a_retrain(service: Served) -> None:
    """As the kernel does when memory runs out; the service lives."""
    (run,) = [
        one
        for one in service.family()
        if "prefect.engine" in one.cmdline() and one.environ().get("PREFECT__DEPLOYMENT_NAME") == "retrain"
    ]
    run.kill()


def test_a_batch_starts_a_retrain_that_a_power_cut_delays_and_sigterm_ends(
    empty_workspace: Path, phantoms: Path, tmp_path: Path
) -> None:
    line = Line(Path(shutil.copytree(empty_workspace, tmp_path / "w", symlinks=True)), tmp_path / "patients.key")
    line.set_params(train=MICRO["train"] | {"epochs": 1000})  # it never ends by itself
    line.tool("git", "commit", "--quiet", "--all", "--message", "tiny, and long")
    shutil.copytree(phantoms / "first", tmp_path / "drop" / "march")
    with receivers.running() as receiver, served(line, tmp_path / "drop", LCLSC_NOTIFY=receiver.address) as service:
        service.wait_for(lambda: len(service.api("deployments/filter", {})) >= 3, 60)
        command = ("prefect", "--profile", "lclsc", "deployment", "run", "intake/intake", "--param", "settle_seconds=0")
        line.tool(*command, extra={"PREFECT_HOME": str(service.home)})
        listed = line.tool(
            "prefect", "--profile", "lclsc", "deployment", "ls", extra={"PREFECT_HOME": str(service.home)}
        )
        assert "retrain/retrain" in listed
        refused = line.run("serve", "--flows", "--port", "0", expect=3)
        assert "Another process serves" in refused.stderr
        service.wait_for(lambda: service.runs("retrain"), 240)
        assert set(service.runs("intake")) <= {"Completed", "Cancelled"}  # a pass that met another one
        assert line.json("status")["videos"] == 15
        service.wait_for(lambda: [one for one in service.family() if one.name() == "raylet"], 240)
        _power_cut(service)
        service.wait_for(lambda: service.runs("retrain") == ["Crashed", "Running"], 240)
        passes = service.runs("intake").count("Completed")
        service.wait_for(lambda: service.runs("intake").count("Completed") > passes, 150)
        service.wait_for(lambda: _has_met(service), 240)
        _kill_a_retrain(service)
        service.wait_for(lambda: service.runs("retrain") == ["Crashed", "Crashed"], 120)
        line.tool(*command[:-3], "retrain/retrain", extra={"PREFECT_HOME": str(service.home)})
        service.wait_for(lambda: service.runs("retrain")[2:] == ["Running"] and _has_met(service), 240)
        assert service.strangers == set()
        family = service.family()
        assert service.stop() == 0
        assert [
            process for process in family if process.is_running() and process.status() != psutil.STATUS_ZOMBIE
        ] == []
        assert service.runs("retrain") == ["Crashed", "Crashed", "Cancelled"]
        causes = [got["message"] for got in receiver.got if got["title"] == "lclsc: retrain failed"]
        assert len(causes) == 2, causes
        assert "machine went down" in causes[0]
        assert "signal 9" in causes[1]
    assert locks.holder(Workspace(line.root)) is None
    for name in ("auth", "profiles.toml"):
        assert stat.S_IMODE((service.home / name).stat().st_mode) == 0o600
    assert "PHANTOM" not in service.log.read_text() + "".join(service.said())
