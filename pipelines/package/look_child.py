"""What one packaged model says of single frames, with its saliency, in a process that knows nothing but the package.

Run by path, never imported: ``python -I -B look_child.py PACKAGE REQUEST OUT``.
REQUEST is JSON {video_id: {"path": path, "frames": [frame_index]}}; OUT is JSON {video_id: rows}, whole or not at all.
A video that the package cannot read has no row. Speaks to the model through MLflow's interface alone.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
from mlflow.exceptions import MlflowException

FIELDS = ["frame_index", "class", "probabilities", "saliency"]


def main(package: Path, request: Path, out: Path) -> None:
    model = mlflow.pyfunc.load_model(str(package))
    asked = json.loads(request.read_text())
    draft = out.with_name(f"{os.environ['LCLSC_TEMPORARY']}-{out.name}")
    said = {video_id: looked(model, one["path"], one["frames"]) for video_id, one in asked.items()}
    draft.write_text(json.dumps(said))
    draft.replace(out)


def looked(model: Any, path: str, frames: list[int]) -> list[dict[str, Any]]:
    try:
        table = model.predict(pd.DataFrame({"video": [path]}))
    except MlflowException:
        return []
    rows: list[dict[str, Any]] = table[table.frame_index.isin(frames)][FIELDS].to_dict("records")
    return rows


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:4]))
