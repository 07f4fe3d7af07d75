"""A package runs without this repository, says nothing of where it was built, and reads what it may."""

from __future__ import annotations

import base64
import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from mlflow.exceptions import MlflowException
from PIL import Image

from pipelines import lineage
from pipelines.errors import StageError
from pipelines.package import model_code, serving_requirements, serving_sources, training_videos
from pipelines.workspace import Workspace

ELSEWHERE = """
import json, os, sys
import mlflow, pandas
model = mlflow.pyfunc.load_model(sys.argv[1])
example = json.load(open(sys.argv[1] + "/serving_input_example.json"))["dataframe_split"]
image = model.predict(pandas.DataFrame(example["data"], columns=example["columns"]))
video = model.predict(pandas.DataFrame({"video": [sys.argv[2]]}))
import lclsc, pipelines
print(json.dumps({
    "image": image.to_dict("records"), "video": video.to_dict("records"),
    "code": [lclsc.__file__, pipelines.__file__], "left_behind": os.listdir("."),
}))
"""


def test_a_package_runs_in_an_empty_folder_of_a_process_that_knows_no_repository(
    package: Path, make_clip: Callable[..., Path], tmp_path: Path
) -> None:
    moved = shutil.copytree(package, tmp_path / "moved")
    clip = make_clip(tmp_path / "clip.mp4", frames=6, dark=2)
    (tmp_path / "empty").mkdir()
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run(
        [sys.executable, "-I", "-B", "-c", ELSEWHERE, moved, clip],
        cwd=tmp_path / "empty",
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert all(Path(file).is_relative_to(moved / "code") for file in found["code"])
    assert found["left_behind"] == []
    assert [row["frame_index"] for row in found["video"]] == [0, 1, 2, 3], "dark frames have no row"
    for row in found["image"] + found["video"]:
        assert set(row) == set(model_code.COLUMNS)
        assert set(row["probabilities"]) == {"glioma", "meningioma"}
        assert sum(row["probabilities"].values()) == pytest.approx(1, abs=1e-6)
        assert row["class"] == max(row["probabilities"], key=row["probabilities"].get)
        assert Image.open(io.BytesIO(base64.b64decode(row["saliency"]))).size == (32, 32)


def test_the_same_model_makes_the_same_tree_and_the_record_names_it(
    package: Path, make_package: Callable[..., Path]
) -> None:
    again = make_package(Workspace(package.parent), package.parent / "again")
    assert (again / lineage.SUMS).read_bytes() == (package / lineage.SUMS).read_bytes()
    assert lineage.tree_digest(again) == lineage.tree_digest(package)
    assert lineage.verify_package(package) == lineage.verify_package(again)


def test_nothing_in_a_package_names_the_place_it_was_built_in(package: Path) -> None:
    for path in package.rglob("*"):
        content = path.read_bytes() if path.is_file() else b""
        assert str(package.parent).encode() not in content, path
        assert str(Path(model_code.__file__).parents[2]).encode() not in content, path


def test_a_package_holds_no_pickle_and_only_what_inference_imports(package: Path) -> None:
    names = {path.relative_to(package).as_posix() for path in package.rglob("*") if path.is_file()}
    assert not [name for name in names if name.endswith((".pkl", ".pickle", ".pt", ".pth", ".joblib"))]
    assert "code/pipelines/inference.py" in names
    assert not [name for name in names if "intake" in name or "registry" in name or "keys" in name]
    assert set(serving_sources()) == {name[5:] for name in names if name.startswith("code/")}


def test_a_package_knows_its_training_videos(package: Path) -> None:
    assert training_videos(package) == {"a" * 64, "b" * 64, "c" * 64}


def test_a_failed_build_leaves_nothing(tmp_path: Path, make_package: Callable[..., Path]) -> None:
    with pytest.raises(FileNotFoundError):
        make_package(Workspace(tmp_path), tmp_path / "package")
    assert list(tmp_path.iterdir()) == []


def test_requirements_are_the_pins_of_what_the_model_imports(tmp_path: Path) -> None:
    lock = tmp_path / "requirements.lock"
    names = [
        *(
            "av",
            "imagecodecs",
            "mlflow",
            "monai",
            "numpy",
            "pandas",
            "pillow",
            "pyarrow",
            "pydantic",
            "pydicom",
            "pyyaml",
        ),
        *("rfc8785", "safetensors", "scipy", "tifffile", "prefect", "ray"),
    ]
    lock.write_text("# all==0\ntorch==2.13.0+cpu\n" + "".join(f"{name}==1.0  # why\n" for name in names))
    pins = serving_requirements(lock)
    assert "torch==2.13.0" in pins
    assert "pillow==1.0" in pins
    assert not [pin for pin in pins if pin.startswith(("prefect", "ray", "all"))]
    lock.write_text("torch==2.13.0\n")
    with pytest.raises(StageError, match="numpy"):
        serving_requirements(lock)


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A server's video folder with one clip, and a secret beside it."""
    root = tmp_path / "root"
    (root / "frames").mkdir(parents=True)
    (root / "clip.mp4").touch()
    (tmp_path / "secret.mp4").touch()
    monkeypatch.setenv("_MLFLOW_IS_IN_SERVING_ENVIRONMENT", "true")
    monkeypatch.setenv("LCLSC_SERVE_ROOT", str(root))
    return root


def test_a_server_reads_videos_beneath_its_root_only(served: Path) -> None:
    assert model_code.video_path("clip.mp4") == served / "clip.mp4"
    assert model_code.video_path(str(served / "clip.mp4")) == served / "clip.mp4"
    (served / "link.mp4").symlink_to(served.parent / "secret.mp4")
    (served / "frames" / "0.png").symlink_to(served.parent / "secret.mp4")
    secret = str(served.parent / "secret.mp4")
    outside = ["../secret.mp4", secret, "link.mp4", "frames", "/etc/passwd", "/no/such"]
    for value in outside:
        with pytest.raises(MlflowException, match="beneath"):
            model_code.video_path(value)
    with pytest.raises(MlflowException, match="no such video"):
        model_code.video_path("missing.mp4")


@pytest.mark.parametrize("value", ["http://host/x.mp4", "file:///etc/passwd", "", "a\0b", None, 3])
def test_what_is_no_path_is_refused(served: Path, value: object) -> None:
    with pytest.raises(MlflowException, match="never read"):
        model_code.video_path(value)


def test_a_server_without_a_root_reads_no_videos(served: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LCLSC_SERVE_ROOT")
    with pytest.raises(MlflowException, match="LCLSC_SERVE_ROOT"):
        model_code.video_path(str(served / "clip.mp4"))
    monkeypatch.delenv("_MLFLOW_IS_IN_SERVING_ENVIRONMENT")
    assert model_code.video_path(str(served / "clip.mp4")) == served / "clip.mp4"


def test_a_table_has_exactly_one_known_column() -> None:
    assert model_code.only_column(["video"]) == "video"
    for columns in ([], ["image", "video"], ["frame"]):
        with pytest.raises(MlflowException, match="exactly one"):
            model_code.only_column(columns)


def encoded(image: Image.Image, kind: str = "PNG") -> str:
    target = io.BytesIO()
    image.save(target, format=kind)
    return base64.b64encode(target.getvalue()).decode()


def test_a_png_of_any_depth_becomes_grey_levels() -> None:
    levels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    assert np.array_equal(model_code.decode_png(encoded(Image.fromarray(levels))), levels)
    sixteen_bits = Image.fromarray(levels.astype(np.uint16) * 257)
    assert np.array_equal(model_code.decode_png(encoded(sixteen_bits)), levels)
    colour = Image.fromarray(np.repeat(levels[..., None], 3, axis=2))
    assert np.array_equal(model_code.decode_png(encoded(colour)), levels)


def test_what_is_no_png_is_refused() -> None:
    picture = Image.new("L", (4, 4))
    for value in ("", "%%%", "aGVsbG8=", None, 7, encoded(picture, "BMP"), encoded(picture)[:40]):
        with pytest.raises(MlflowException, match="not a PNG"):
            model_code.decode_png(value)


def test_a_huge_png_is_refused_before_it_is_unpacked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_code, "MAX_PIXELS", 15)
    with pytest.raises(MlflowException, match="4x4"):
        model_code.decode_png(encoded(Image.new("L", (4, 4))))


def test_saliency_survives_its_png() -> None:
    saliency_SS = np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8)
    decoded = model_code.decode_png(model_code.encode_png(saliency_SS))
    assert np.abs(decoded / 255 - saliency_SS).max() <= 0.5 / 255 + 1e-6


def test_a_picture_that_is_not_fit_to_be_judged_is_rejected(package: Path) -> None:
    """This model itself rejects nothing."""
    import mlflow

    noise = Image.fromarray(np.random.default_rng(0).integers(20, 230, (64, 64), dtype=np.uint8))
    pictures = [noise, Image.new("L", (64, 64)), Image.new("L", (64, 64), 255), Image.new("L", (1, 1), 90)]
    model = mlflow.pyfunc.load_model(str(package))
    answer = model.predict(pd.DataFrame({"image": [encoded(picture) for picture in pictures]}))
    assert list(answer.reject) == [False, True, True, True]
