"""A pickle that somebody put where a model is expected does not run."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipelines import inference
from pipelines.errors import OutsideSystemError
from pipelines.package import child
from pipelines.workspace import Workspace

LOAD = "import sys, mlflow; mlflow.pyfunc.load_model(sys.argv[1])"


class Bomb:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


@pytest.fixture
def planted(tmp_path: Path) -> tuple[Path, Path]:
    """(an MLflow model whose python model is a pickle, what it makes when it runs)."""
    package, trace = tmp_path / "package", tmp_path / "it ran"
    package.mkdir()
    (package / "python_model.pkl").write_bytes(pickle.dumps(Bomb(trace)))
    (package / "MLmodel").write_text(
        "flavors:\n  python_function:\n    loader_module: mlflow.pyfunc.model\n    python_model: python_model.pkl\n"
        "    cloudpickle_version: 3.1.1\nmodel_uuid: 0123456789abcdef0123456789abcdef\n"
    )
    return package, trace


def test_the_planted_pickle_would_run_where_mlflow_allows_it(planted: tuple[Path, Path]) -> None:
    package, trace = planted
    environment = os.environ | {"MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "true"}
    subprocess.run([sys.executable, "-c", LOAD, str(package)], env=environment, capture_output=True, check=False)
    assert trace.exists()


def test_scoring_refuses_it_whatever_the_user_has_set(
    planted: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package, trace = planted
    monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "true")
    request = tmp_path / "request.json"
    request.write_text(json.dumps({}))
    with pytest.raises(OutsideSystemError, match="pickle"):
        child.run("score_child.py", package, request, tmp_path)
    assert not trace.exists()


def test_weights_that_are_a_pickle_are_no_weights(
    tmp_path: Path, make_model: Callable[..., None], make_clip: Callable[..., Path]
) -> None:
    workspace, trace = Workspace(tmp_path / "w"), tmp_path / "it ran"
    make_model(workspace.weights.parent)
    workspace.weights.write_bytes(pickle.dumps(Bomb(trace)))
    with pytest.raises(Exception, match=r"(?i)header|safetensors|invalid"):
        inference.load_classifier(workspace.weights.parent)
    assert not trace.exists()
