"""A team's whole set-up on this machine: one retrain through all of it, with the bytes of one machine alone.

Run    make team        about fifteen minutes; needs PostgreSQL and `unshare` (util-linux)

PostgreSQL stands behind Prefect's server and behind MLflow's, both by the scripts of deploy/; DVC's objects and Ray's
checkpoints go to buckets; Ray has three nodes without a common disk, of which one is killed while it trains. A second
clone, as on a colleague's machine, then finds what was built and builds nothing.
"""

from __future__ import annotations

import contextlib
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from e2e import servers
from e2e.cluster import CHECKPOINTS, same_outputs, say, taken_in, three_nodes
from e2e.line import Line, draw_batches

OBJECTS = "objects"
RUNS = "select r.state_name from flow_run r join flow f on f.id = r.flow_id where f.name = 'retrain'"
VERSIONS = "select version from model_versions where name = 'lclsc'"
ALIASES = "select alias, version from registered_model_aliases where name = 'lclsc'"


def main() -> None:
    # Below /tmp, because a socket's path is short; and passable, because PostgreSQL does not run as root.
    with tempfile.TemporaryDirectory(prefix="team-", dir="/tmp") as name, servers.buckets(CHECKPOINTS, OBJECTS):
        place = Path(name)
        place.chmod(0o711)
        (place / "hidden").mkdir()
        draw_batches(place)
        with team(place) as environment, three_nodes(place / "hidden", place / "token") as cluster:
            say("PostgreSQL, Prefect, MLflow, buckets and three Ray nodes are there; retraining on them")
            spread = taken_in(place, place / "hidden" / "w", "--remote", f"s3://{OBJECTS}/clinic")
            _with_origin(spread, place / "origin.git")
            spread.environment |= environment | cluster.environment
            first = cluster.struck_retrain(spread, place / "log")
            assert (first["status"], first["version"], first["aliases"]) == ("registered", "1", ["champion"])
            assert spread.json("retrain")["status"] == "up_to_date"
            _a_colleague_builds_nothing(place, spread)
            _the_servers_hold_it(place, spread)
            _nothing_embedded(spread)
        say("the same on this machine alone")
        alone = taken_in(place, place / "w")
        assert alone.json("retrain")["status"] == "registered"
        same_outputs(spread, alone)


@contextlib.contextmanager
def team(place: Path) -> Iterator[dict[str, str]]:
    """The environment that leads a command to the servers."""
    prefect, mlflow = servers.free_port(), servers.free_port()
    with (
        servers.script("prefect-server.sh", place / "prefect", prefect) as one,
        servers.script("mlflow-server.sh", place / "mlflow", mlflow) as two,
    ):
        servers.wait_for(lambda: servers.status(prefect, "health") == 200, one, 600)
        servers.wait_for(lambda: servers.status(mlflow, "2.0/mlflow/experiments/search") == 401, two, 600)
        yield {
            "PREFECT_API_URL": f"http://127.0.0.1:{prefect}/api",
            "PREFECT_API_AUTH_STRING": (place / "prefect" / "auth").read_text().strip(),
            "MLFLOW_TRACKING_URI": f"http://127.0.0.1:{mlflow}",
            "MLFLOW_TRACKING_USERNAME": "admin",
            "MLFLOW_TRACKING_PASSWORD": (place / "mlflow" / "password").read_text().strip(),
        }


def _with_origin(line: Line, origin: Path) -> None:
    subprocess.run(["git", "init", "--quiet", "--bare", "--initial-branch", "main", str(origin)], check=True)
    line.tool("git", "remote", "add", "origin", str(origin))
    line.tool("git", "push", "--quiet", "origin", "HEAD:refs/heads/main")


def _a_colleague_builds_nothing(place: Path, spread: Line) -> None:
    """A clone with its objects from the bucket is up to date by the registry that they share."""
    subprocess.run(["git", "clone", "--quiet", str(place / "origin.git"), str(place / "colleague")], check=True)
    colleague = Line(place / "colleague", place / "patients.key")
    colleague.environment |= spread.environment
    colleague.tool("dvc", "pull", "--quiet")
    found = colleague.json("retrain")
    assert (found["status"], found["version"]) == ("up_to_date", "1"), found
    assert colleague.outputs() == spread.outputs()
    say("a clone with objects from the bucket is up to date with version 1")


def _the_servers_hold_it(place: Path, spread: Line) -> None:
    """As PostgreSQL itself tells it."""
    assert _asked(place / "prefect", "prefect", RUNS)[0] == "Completed"
    assert _asked(place / "mlflow", "mlflow", VERSIONS) == ["1"]
    assert _asked(place / "mlflow", "mlflow", ALIASES) == ["champion|1"]
    assert any((place / "mlflow" / "artifacts").rglob("lineage.json"))
    audit = spread.json("audit", "@champion")
    assert audit["verdict"] == "pass", audit
    say(f"{len(servers.names_in(OBJECTS))} objects in the bucket, and an audit finds everything there")


def _asked(folder: Path, database: str, query: str) -> list[str]:
    command = ["psql", "--host", str(folder / "postgresql"), database, "--tuples-only", "--no-align"]
    return subprocess.run([*command, "--command", query], check=True, capture_output=True, text=True).stdout.split()


def _nothing_embedded(line: Line) -> None:
    for name in ("mlflow.db", "mlartifacts", "remotes", ".state/prefect/prefect.db", ".state/ray"):
        assert not (line.root / name).exists(), name


if __name__ == "__main__":
    main()
