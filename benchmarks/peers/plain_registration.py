"""Register what a line built, as a script with MLflow does: parameters, metrics, package, version, alias.

python plain_registration.py WORKSPACE
"""

import sys
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import mlflow
import yaml
from mlflow import MlflowClient

from pipelines.files import read_json
from pipelines.inference import load_classifier

NAME = "plain"
ROOT = Path(__file__).resolve().parents[2]
PINS = [f"{name}=={version(name)}" for name in ("av", "mlflow", "numpy", "pandas", "torch")]


class Model(mlflow.pyfunc.PythonModel):
    """Frames and their fields of view in, classes out."""

    def load_context(self, context: Any) -> None:
        self.classifier = load_classifier(Path(context.artifacts["models"]))

    def predict(self, context: Any, model_input: Any, params: Any = None) -> Any:
        return self.classifier.predict(*model_input).predicted_N


def main(workspace: Path) -> None:
    mlflow.set_tracking_uri(f"sqlite:///{workspace / '.state' / 'plain.db'}")
    mlflow.create_experiment(NAME, artifact_location=str(workspace / ".state" / "plain"))
    mlflow.set_experiment(NAME)
    with mlflow.start_run():
        mlflow.log_params(dict(flat(yaml.safe_load((workspace / "params.yaml").read_text()))))
        found = flat(read_json(workspace / "reports" / "evaluate.json"))
        mlflow.log_metrics({name: value for name, value in found if isinstance(value, float)})
        info = mlflow.pyfunc.log_model(
            name="model",
            python_model=Model(),
            artifacts={"models": str(workspace / "models")},
            code_paths=[str(ROOT / "lclsc"), str(ROOT / "pipelines")],
            pip_requirements=PINS,
        )
    registered = mlflow.register_model(info.model_uri, NAME)
    MlflowClient().set_registered_model_alias(NAME, "challenger", registered.version)


def flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


if __name__ == "__main__":
    main(Path(sys.argv[1]))
