"""Definitions: figures are comparable only while what they were measured with stays as it is.

``definitions.json`` holds every constant and default of the method and its measures, and sums over what chance and
corruptions make of one scene. A change that is meant: ``python tests/lclsc/test_definitions.py`` writes it anew.
"""

import dataclasses
import inspect
import json
import math
from importlib import import_module
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

import pytest
import torch

from lclsc import chance, corruptions, faithfulness, map_stability, removal, views

RECORD = Path(__file__).with_name("definitions.json")
MODULES = ("calibration", "chance", "consistency", "corruptions", "distributed", "faithfulness", "fit")
MODULES += (
    "global_embeddings",
    "inference",
    "label_contrast",
    "map_quality",
    "map_stability",
    "model",
    "objective",
    "optimisation",
)
MODULES += ("removal", "saliency", "step", "topk_pool", "views")
SIDE = 40


def constants() -> dict[str, Any]:
    """Of every module: its numbers in capitals and the defaults of its functions and dataclasses."""
    found = {}
    for name in MODULES:
        plain = _of_module(import_module(f"lclsc.{name}"))
        found |= {f"{name}.{key}": value for key, value in plain.items() if _is_plain(value)}
    return json.loads(json.dumps(found))


def _of_module(module: ModuleType) -> dict[str, Any]:
    found = {name: value for name, value in vars(module).items() if name.isupper()}
    own = {name: value for name, value in vars(module).items() if getattr(value, "__module__", "") == module.__name__}
    for name, value in own.items():
        if inspect.isclass(value) and dataclasses.is_dataclass(value):
            found |= {f"{name}.{field.name}": field.default for field in dataclasses.fields(value)}
        elif inspect.isfunction(value):
            found |= _defaults(name, value)
        elif inspect.isclass(value):
            for method in filter(inspect.isfunction, vars(value).values()):
                found |= _defaults(method.__qualname__, method)
    return found


def _defaults(name: str, function: FunctionType) -> dict[str, Any]:
    parameters = inspect.signature(function).parameters.values()
    return {f"{name}({one.name})": one.default for one in parameters if one.default is not inspect.Parameter.empty}


def _is_plain(value: Any) -> bool:
    if isinstance(value, tuple):
        return all(map(_is_plain, value))
    return isinstance(value, bool | int | float | str) and not (isinstance(value, float) and math.isinf(value))


def sums() -> dict[str, list[float]]:
    """What every kind of chance makes of one scene, weighed pixel by pixel so that no two places are alike."""
    image, fov, index = scene()
    found = {}
    for kind, corruption in corruptions.CORRUPTIONS.items():
        found[f"{kind} levels"] = list(corruption.levels)
        for severity in corruptions.SEVERITIES:
            worse, inside = corruptions.corrupt(image, fov, index, kind=kind, severity=severity, seed=7)
            found[f"{kind} {severity}"] = [*weighed(worse), *weighed(inside)]
    for view in (0, 1):
        look = views.make_views(image, fov, index, seed=7, epoch=3, view=view, settings=views.ViewSettings())
        found[f"view {view}"] = [*weighed(look.image_B1SS), *weighed(look.fov_B1SS)]
        found[f"affine {view}"] = look.affine_B33.flatten().tolist()
    removed = fov & (image > 0.5)
    found["blurred tissue"] = weighed(removal.blurred_tissue(image, fov))
    found["imputation"] = weighed(removal.noisy_linear_imputation(image, fov, removed, index, seed=7))
    found["noisy copy"] = weighed(map_stability.noisy_copy(image, fov, index, 2, seed=7, noise=map_stability.NOISE))
    found["patches"] = weighed(faithfulness.patch_changes(image, fov, index, changes=3, seed=7).sum(0))
    found["noise"] = weighed(chance.noise(torch.tensor([5, 6, 7]).reshape(3, 1, 1, 1), SIDE))
    found["uniform"] = weighed(chance.uniform(torch.tensor([5, 6, 7]).reshape(3, 1, 1, 1), SIDE))
    return found


def scene() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Three smooth pictures in a disc off the centre, of arithmetic alone."""
    at = torch.arange(SIDE, dtype=torch.float64) / SIDE
    rows, columns = at[:, None], at[None]
    waves = [((n + 2) * rows * rows + (7 - n) * columns + 3 * rows * columns) % 1.0 for n in range(3)]
    disc = (rows - 0.47) ** 2 + (columns - 0.53) ** 2 < 0.2
    image = torch.stack(waves)[:, None].float() * disc
    return image, disc.expand(3, 1, SIDE, SIDE), torch.tensor([11, 12, 40])


def weighed(values_B1SS: torch.Tensor) -> list[float]:
    """One number a sample: the mean of its pixels times weights that differ from place to place."""
    weights = (torch.arange(SIDE * SIDE, dtype=torch.float64) * 0.6180339887) % 1.0
    return (values_B1SS.double().flatten(1) * (weights + 0.5)).mean(1).tolist()


def test_no_constant_or_default_has_changed() -> None:
    assert constants() == json.loads(RECORD.read_text())["constants"]


def test_chance_corruptions_and_views_make_the_same_of_one_scene() -> None:
    recorded, found = json.loads(RECORD.read_text())["sums"], sums()
    assert found.keys() == recorded.keys()
    for name, values in found.items():
        assert values == pytest.approx(recorded[name], rel=1e-4, abs=2e-6), name


if __name__ == "__main__":
    text = json.dumps({"constants": constants(), "sums": sums()}, indent=1, sort_keys=True)
    RECORD.write_text(text + "\n")
