from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from pipelines import params
from pipelines.errors import ParameterError
from pipelines.initialise import GPU_PRESET
from pipelines.workspace import template_file


@pytest.fixture
def document() -> dict[str, Any]:
    return dict(yaml.safe_load(template_file("params.yaml").read_text()))


def _load(tmp_path: Path, document: dict[str, Any]) -> params.Params:
    path = tmp_path / "params.yaml"
    path.write_text(yaml.safe_dump(document))
    return params.load(path)


def test_the_shipped_parameters_are_valid(tmp_path: Path, document: dict[str, Any]) -> None:
    assert _load(tmp_path, document).train.logical_shards == 4


def test_the_gpu_preset_is_valid_too(tmp_path: Path, document: dict[str, Any]) -> None:
    for section, values in GPU_PRESET.items():
        document[section].update(values)
    assert _load(tmp_path, document).extract.side_px == 224


def test_an_unknown_key_is_named_by_its_path(tmp_path: Path, document: dict[str, Any]) -> None:
    document["train"]["learning_rat"] = 0.1
    with pytest.raises(ParameterError, match=r"train\.learning_rat is unknown"):
        _load(tmp_path, document)


def test_a_missing_key_is_named_by_its_path(tmp_path: Path, document: dict[str, Any]) -> None:
    del document["train"]["views"]["zoom"]
    with pytest.raises(ParameterError, match=r"train\.views\.zoom is missing"):
        _load(tmp_path, document)


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("train", "top_share", 0.6),
        ("split", "test", 0.9),
        ("train", "batch_images", 30),
        ("extract", "side_px", 97),
    ],
)
def test_a_value_out_of_range_is_refused(
    tmp_path: Path, document: dict[str, Any], section: str, key: str, value: object
) -> None:
    document[section][key] = value
    with pytest.raises(ParameterError) as caught:
        _load(tmp_path, document)
    assert section in caught.value.cause


def test_broken_yaml_says_so(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text("train: [1, 2")
    with pytest.raises(ParameterError, match="is not YAML"):
        params.load(path)
