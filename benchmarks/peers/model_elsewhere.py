"""A client of MLflow that knows nothing of this project: `python model_elsewhere.py MODEL_URI REQUESTS.json`.

REQUESTS.json is a list of tables {column: value}. Prints, as JSON, the answers, where this project's code came from,
and what was left in the working directory.
"""

import json
import sys
from pathlib import Path

import mlflow
import pandas as pd


def main(uri: str, requests: Path) -> None:
    model = mlflow.pyfunc.load_model(uri)
    answers = [model.predict(pd.DataFrame(table)).to_dict("records") for table in json.loads(requests.read_text())]
    code = [str(sys.modules[name].__file__) for name in ("lclsc", "pipelines")]
    print(json.dumps({"answers": answers, "code": code, "left": [path.name for path in Path().iterdir()]}))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
