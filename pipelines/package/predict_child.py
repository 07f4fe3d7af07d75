"""Classify one video with a package's own code: run by path, in a process of its own, outside any checkout.

    python -I predict_child.py PACKAGE VIDEO OUT.npz

Two versions of a module cannot live in one process, and a model must be asked with the readers it was
trained with. Prints the error of a video that cannot be read; else OUT holds the arrays of
``VideoPrediction`` and ``Prediction`` under their names. No pickle.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path


def main(package: Path, video: Path, out: Path) -> None:
    sys.path.insert(0, str(package / "code"))
    import numpy as np

    from pipelines.errors import LclscError
    from pipelines.inference import load_classifier, predict_video

    try:
        found = predict_video(load_classifier(package / "artifacts" / "model"), video)
    except LclscError as error:
        print(json.dumps(error.as_json()))
        return
    arrays = {field.name: getattr(found, field.name) for field in dataclasses.fields(found)}
    prediction = arrays.pop("prediction")
    arrays |= {field.name: getattr(prediction, field.name) for field in dataclasses.fields(prediction)}
    np.savez(out, allow_pickle=False, **arrays)


if __name__ == "__main__":
    main(*(Path(argument) for argument in sys.argv[1:]))
