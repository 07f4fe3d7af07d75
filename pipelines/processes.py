"""Which process is it, beyond its id? Ids come round again, and start times by the clock move when it is set."""

from __future__ import annotations

from pathlib import Path

PROC = Path("/proc")
STARTED = 19  # of the fields behind the name, see proc_pid_stat(5): field 22, in ticks since the machine started


def boot() -> str:
    """This start of this machine, and of this container on it: each counts its processes from 1."""
    namespace = (PROC / "self" / "ns" / "pid").readlink().name.strip("pid:[]")
    return f"{(PROC / 'sys' / 'kernel' / 'random' / 'boot_id').read_text().strip()}/{namespace}"


def booted_at() -> float:
    """When this machine started, in seconds of the epoch."""
    return next(float(line.split()[1]) for line in (PROC / "stat").read_text().splitlines() if line.startswith("btime"))


def start_of(pid: int) -> str | None:
    """``<boot>/<namespace>/<ticks since the boot>`` of a process that runs here; None where there is none."""
    try:
        stat = (PROC / str(pid) / "stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return f"{boot()}/{stat.rpartition(')')[2].split()[STARTED]}"
