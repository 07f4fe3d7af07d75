"""MLflow's scoring server for one packaged model, on a Unix socket: run by path, outside any checkout.

    python -I -B serve_child.py PACKAGE SOCKET PARENT

The app is the one that ``mlflow models serve`` runs. It lives no longer than PARENT, a process id.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from pathlib import Path

PR_SET_PDEATHSIG = 1  # linux/prctl.h
KEEP_ALIVE_SECONDS = 24 * 3600
"""The front door closes idle connections first: one closed from here could swallow a request on its way."""


def main(package: Path, socket: Path, parent: int) -> None:
    die_with(parent)
    os.environ.update({"__pyfunc_model_path__": str(package)})
    import uvicorn
    from mlflow.pyfunc.scoring_server.app import app  # loads the model

    require_own_code(package)
    # uvicorn drains and then raises the signal again: an exit, so that the prediction log is written.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    uvicorn.run(
        app,
        uds=str(socket),
        log_level="warning",
        access_log=False,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        lifespan="off",
    )


def die_with(parent: int) -> None:
    """However the parent ends; it may have ended before this line."""
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit("the front door is gone")


def require_own_code(package: Path) -> None:
    """Two versions of a module cannot share a process: this one must hold the package's."""
    for name in ("lclsc", "pipelines"):
        origin = Path(str(sys.modules[name].__file__)).resolve()
        if not origin.is_relative_to(package.resolve() / "code"):
            sys.exit(f"{name} was loaded from {origin}, not from the package")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
