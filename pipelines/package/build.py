"""Build a model package: an MLflow pyfunc from code that carries this project's readers with it.

MLmodel, model_code.py, artifacts/model/{model.safetensors, model.json}, code/{lclsc, pipelines},
training_videos.json, source.tar, requirements.txt, a synthetic input example, SHA256SUMS over all of these, and
lineage.json (by ``lineage.write``). No pickle. The same weights, code and pins give the same bytes on one machine.
"""

from __future__ import annotations

import base64
import importlib.metadata
import io
import re
import shutil
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import grimp
import numpy as np

from pipelines import lineage, settings
from pipelines.errors import StageError
from pipelines.files import read_json, temporary_folder, write_json, write_text
from pipelines.package import source_archive
from pipelines.workspace import Workspace

ENTRIES = ("pipelines.inference", "pipelines.prediction_log", "pipelines.video.grain")
MODEL_CODE = Path(__file__).with_name("model_code.py")
OF_MODEL_CODE = frozenset({"mlflow", "numpy", "pandas", "pillow"})
TRAINING_VIDEOS = "training_videos.json"


def build_package(
    workspace: Workspace,
    out: Path,
    *,
    requirements: Sequence[str],
    videos: Mapping[str, Sequence[str]],
) -> Path:
    """Write the package of the workspace's model to ``out``; whole or absent.

    ``videos`` lists the train and validation video ids, which the gate needs as long as the model lives.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    with temporary_folder(out.parent) as draft:
        files = (workspace.weights, workspace.model_card)
        model = _copy(draft / "model", {path.name: path for path in files})
        sources = _copy(draft / "code", serving_sources())
        _save(draft / "package", model, sources, requirements)
        _note_videos(draft / "package", videos)
        source_archive.write(draft / "package" / source_archive.FILE)
        lineage.write_sums(draft / "package")
        shutil.rmtree(out, ignore_errors=True)
        (draft / "package").rename(out)
    return out


def training_videos(package: Path) -> frozenset[str]:
    """Every video a packaged model was fitted or calibrated on."""
    splits: dict[str, list[str]] = read_json(package / TRAINING_VIDEOS)
    return frozenset(video_id for ids in splits.values() for video_id in ids)


def serving_sources() -> dict[str, Path]:
    """Relative path -> source file of everything of this project that inference imports."""
    modules = {name for name in _closure() if name.split(".")[0] in ("pipelines", "lclsc")}
    packages = {name.rsplit(".", depth)[0] for name in modules for depth in range(1, name.count(".") + 1)}
    files = (_source(name) for name in modules | packages)
    return {str(file.relative_to(_root())): file for file in sorted(files)}


def serving_requirements(lock: Path) -> list[str]:
    """Pins of the lock file for the packages that the model's code imports.

    Without a build tag: ``torch==2.13.0+cpu`` installs on no GPU host.
    """
    lines = lock.read_text(encoding="utf-8").splitlines()
    pins = dict(_pin(line) for line in lines if "==" in line.split("#")[0])
    wanted = OF_MODEL_CODE | _distributions(_closure())
    if missing := sorted(wanted - set(pins)):
        raise StageError("not_locked", f"{lock.name} does not pin {', '.join(missing)}.", "Write the lock file anew.")
    return [f"{name}=={pins[name]}" for name in sorted(wanted)]


def _save(out: Path, model: Path, sources: Path, requirements: Sequence[str]) -> None:
    settings.apply()  # before the import, which reads the environment
    import mlflow.pyfunc

    mlflow.pyfunc.save_model(
        path=str(out),
        python_model=str(MODEL_CODE),
        artifacts={"model": str(model)},
        code_paths=[str(path) for path in sorted(sources.iterdir())],
        signature=_signature(),
        input_example=_example(),
        pip_requirements=list(requirements),
    )
    _forget_this_machine(out)


def _forget_this_machine(package: Path) -> None:
    """MLflow notes where model code and weights came from, a clock and a random id; it loads without any of them."""
    import yaml
    from mlflow.models import Model

    card = Model.load(str(package))
    flavor = card.flavors["python_function"]
    flavor["model_code_path"] = MODEL_CODE.name
    for artifact in flavor["artifacts"].values():
        artifact["uri"] = artifact["path"]
    facts = {name: value for name, value in card.to_dict().items() if name not in ("utc_time_created", "model_uuid")}
    write_text(package / "MLmodel", yaml.safe_dump(facts))


def _signature() -> Any:
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema
    from mlflow.types.schema import Map

    either = [ColSpec(DataType.string, name, required=False) for name in ("image", "video")]
    outputs = {
        "frame_index": DataType.long,
        "class": DataType.string,
        "probabilities": Map(DataType.double),
        "reject": DataType.boolean,
        "saliency": DataType.string,
    }
    params = ParamSchema([ParamSpec(name, DataType.string, default="") for name in ("site", "case")])
    return ModelSignature(Schema(either), Schema([ColSpec(kind, name) for name, kind in outputs.items()]), params)


def _example() -> Any:
    """A drawn disc with rings: an example must never be a patient's picture."""
    import pandas as pd
    from PIL import Image

    y, x = np.mgrid[-1:1:96j, -1:1:96j]
    radius = np.hypot(x, y)
    rings = np.where(radius < 0.95, 128 + 100 * np.sin(20 * radius), 0)
    target = io.BytesIO()
    Image.fromarray(rings.astype(np.uint8)).save(target, format="PNG")
    return pd.DataFrame({"image": [base64.b64encode(target.getvalue()).decode("ascii")]})


def _note_videos(package: Path, videos: Mapping[str, Sequence[str]]) -> None:
    write_json(package / TRAINING_VIDEOS, {split: sorted(ids) for split, ids in videos.items()})


def _copy(folder: Path, files: Mapping[str, Path]) -> Path:
    for name, source in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, folder / name)
    return folder


@cache
def _closure() -> frozenset[str]:
    """Inference and every module it imports, directly or not; other projects' by their top name."""
    graph = grimp.build_graph("pipelines", "lclsc", include_external_packages=True, cache_dir=None)
    return frozenset(ENTRIES).union(*(graph.find_upstream_modules(entry) for entry in ENTRIES))


def _distributions(modules: frozenset[str]) -> frozenset[str]:
    """Names on the package index of what is imported; the standard library has none."""
    owners = importlib.metadata.packages_distributions()
    tops = {name.split(".")[0] for name in modules} - {"pipelines", "lclsc"}
    return frozenset(_canonical(owner) for top in tops for owner in owners.get(top, []))


def _pin(line: str) -> tuple[str, str]:
    name, version = re.split(r"==", re.split(r"[;#\s]", line.strip(), maxsplit=1)[0], maxsplit=1)
    return _canonical(name), version.partition("+")[0]


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _source(module: str) -> Path:
    spec = find_spec(module)
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin)


def _root() -> Path:
    return Path(__file__).resolve().parents[2]
