"""Let one packaged model look at videos and note what it sees, as a server does.

Run by path, never imported: ``python -I -B observe_child.py PACKAGE REQUEST OUT``. REQUEST is JSON: ``version`` and
``videos``, each with ``path`` and what is known ``about`` it. Parts of the prediction log lie in OUT afterwards.
Prints one line a video.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path


def main(package: Path, request: Path, out: Path) -> None:
    asked = json.loads(request.read_text())
    # Read when the model is loaded; one part, written at the end.
    os.environ.update(
        {"LCLSC_SERVE_LOG": str(out), "LCLSC_SERVE_VERSION": asked["version"], "LCLSC_SERVE_LOG_SECONDS": "1e6"}
    )
    import mlflow
    import pandas as pd
    from mlflow.exceptions import MlflowException

    model = mlflow.pyfunc.load_model(str(package))
    for video in asked["videos"]:
        try:
            model.predict(pd.DataFrame({"video": [video["path"]]}), params=video["about"])
        except MlflowException as error:
            print(f"not looked at: {error.message}", file=sys.stderr)
        print(flush=True)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:4]))
