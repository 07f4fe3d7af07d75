"""Score videos with one packaged model, in a process that knows nothing but the package.

Run by path, never imported: ``python -I -B score_child.py PACKAGE REQUEST OUT``; without arguments it waits for
them, a JSON list, on its standard input.
REQUEST is JSON {video_id: path}; OUT/<video_id>.json appears whole, with ``rows`` or with ``error``.
It speaks to the model through MLflow's interface alone, which old packages keep.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import json
import os
import sys
from pathlib import Path
from typing import Any

gc.disable()  # looking for cycles among torch, MLflow and pandas while they come in takes a fifth of their import
atexit.register(gc.freeze)

import mlflow  # noqa: E402
import pandas as pd  # noqa: E402
from mlflow.exceptions import MlflowException  # noqa: E402

FIELDS = ["frame_index", "class", "probabilities", "reject"]


def main(package: Path, request: Path, out: Path) -> None:
    gc.freeze()
    gc.enable()
    model = mlflow.pyfunc.load_model(str(package), suppress_warnings=True)  # half a second, and nobody would see them
    require_own_code(package)
    for video_id, path in json.loads(request.read_text()).items():
        target = out / f"{video_id}.json"
        draft = target.with_name(f"{os.environ['LCLSC_TEMPORARY']}-{target.name}")
        draft.write_text(json.dumps(score(model, path)))
        draft.replace(target)


def score(model: Any, path: str) -> dict[str, Any]:
    try:
        table = model.predict(pd.DataFrame({"video": [path]}))
    except MlflowException as error:
        return {"error": error.message}
    return {"rows": table[FIELDS].to_dict("records")}


def require_own_code(package: Path) -> None:
    """Two versions of a module cannot share a process: this one must hold the package's."""
    for name in ("lclsc", "pipelines"):
        origin = Path(str(sys.modules[name].__file__)).resolve()
        if not origin.is_relative_to(package.resolve() / "code"):
            sys.exit(f"{name} was loaded from {origin}, not from the package")


if __name__ == "__main__":
    given = sys.argv[1:4]
    if not given:
        for library in ("torch", "scipy.ndimage"):  # the package will
            importlib.import_module(library)
        given = json.loads(sys.stdin.read() or "[]")
    if given:
        os.chdir(given[0])
        main(*map(Path, given))
