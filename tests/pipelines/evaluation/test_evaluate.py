"""The stage on a small workspace: an untrained model, drawn frames, masks for some of them."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lclsc.corruptions import CORRUPTIONS, SEVERITIES
from pipelines import evaluate, frames, metrics, schemas
from pipelines.files import sha256_file, write_json
from pipelines.params import EvaluateParams
from pipelines.workspace import Workspace

SIDE_PX = 32
CLASSES = ("glioma", "meningioma")
PARAMS = EvaluateParams(seed=3, bootstrap=100, confidence=0.95, corruption_frames=6, faithfulness_frames=5)
VIDEOS = [  # video, patient, label, site, domain, kept frames of 4, masks
    ("v0", "p0", "glioma", "north", "ex-vivo", 4, True),
    ("v1", "p0", "glioma", "north", "in-vivo", 3, True),
    ("v2", "p1", "glioma", "south", "ex-vivo", 4, False),
    ("v3", "p2", "meningioma", "north", "ex-vivo", 4, True),
    ("v4", "p3", "meningioma", "south", "ex-vivo", 2, False),
    ("v5", "p4", "meningioma", "south", "in-vivo", 0, False),  # nothing to judge
]


def write_shards(workspace: Workspace) -> None:
    rows = []
    for number, (video_id, patient_id, label, site, domain, kept, masked) in enumerate(VIDEOS):
        shard, mask = workspace.frames / f"{video_id}.parquet", workspace.mask_frames / f"{video_id}.parquet"
        generator = np.random.default_rng(number)
        schemas.write_table(shard, frame_table(video_id, kept, generator))
        if masked:
            schemas.write_table(mask, mask_table(video_id, generator))
        rows.append(
            {
                "video_id": video_id,
                "patient_id": patient_id,
                "label": label,
                "split": "test",
                "shard": shard.name,
                "shard_sha256": sha256_file(shard),
                "frames": 4,
                "kept": kept,
                "site": site,
                "domain": domain,
                "mask_shard": mask.name if masked else "",
                "mask_shard_sha256": sha256_file(mask) if masked else "",
            }
        )
    pd.DataFrame(rows).to_csv(workspace.test_table, index=False)


def frame_table(video_id: str, kept: int, generator: np.random.Generator) -> pa.Table:
    schema = schemas.frames(SIDE_PX)
    view = {"fov_x0": 0.0, "fov_y0": 0.0, "fov_x1": 32.0, "fov_y1": 32.0, "fov_cx": 16.0, "fov_cy": 16.0}
    values: dict[str, list[Any]] = {name: [0.0] * 4 for name in schema.names}
    values |= {name: [value] * 4 for name, value in view.items()} | {"fov_radius": [15.0] * 4}
    values |= {"video_id": [video_id] * 4, "frame_index": [0, 1, 2, 3], "keep": [n < kept for n in range(4)]}
    values["reason"] = [None if n < kept else "dark" for n in range(4)]
    images = generator.integers(20, 230, size=(4, SIDE_PX, SIDE_PX), dtype=np.uint8)
    return pa.Table.from_arrays(
        [
            pa.FixedShapeTensorArray.from_numpy_ndarray(images)
            if name == "image"
            else pa.array(values[name], schema.field(name).type)
            for name in schema.names
        ],
        schema=schema,
    )


def mask_table(video_id: str, generator: np.random.Generator) -> pa.Table:
    masks = (generator.random((4, SIDE_PX, SIDE_PX)) < 0.1).astype(np.uint8)
    masks[2] = 0  # a frame without a structure
    return pa.Table.from_arrays(
        [
            pa.array([video_id] * 4),
            pa.array([0, 1, 2, 3], pa.int32()),
            pa.FixedShapeTensorArray.from_numpy_ndarray(masks),
        ],
        schema=schemas.masks(SIDE_PX),
    )


def evaluated(workspace: Workspace, params: EvaluateParams = PARAMS) -> dict[str, Any]:
    """The stage without Ray: the same videos, one after the other."""
    table = frames.read_table(workspace.test_table)
    scored = [evaluate.score_video(work) for work in evaluate.to_score(workspace, table, params)]
    return evaluate.conclude(workspace, table, scored, params)


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory, make_model: Callable[..., None]) -> Workspace:
    workspace = Workspace(tmp_path_factory.mktemp("evaluate"))
    workspace.test_table.parent.mkdir(parents=True)
    make_model(workspace.weights.parent, classes=CLASSES)
    write_shards(workspace)
    return workspace


@pytest.fixture(scope="module")
def report(workspace: Workspace) -> dict[str, Any]:
    return evaluated(workspace)


def test_every_figure_but_those_of_corrupted_frames_comes_from_the_stored_predictions(
    workspace: Workspace, report: dict[str, Any]
) -> None:
    again = evaluate.recompute(workspace, PARAMS)
    corrupted = {"metrics": {"corrupted_accuracy"}, "intervals": {"corrupted_accuracy"}}
    expected = {name: value for name, value in report.items() if name not in ("robustness", "weights_sha256")}
    for section, names in corrupted.items():
        expected[section] = {name: value for name, value in report[section].items() if name not in names}
    assert again == expected


def test_the_report_is_the_same_bytes_again(workspace: Workspace, report: dict[str, Any], tmp_path: Path) -> None:
    before = sha256_file(workspace.predictions)
    assert evaluated(workspace) == report
    assert sha256_file(workspace.predictions) == before
    write_json(tmp_path / "evaluate.json", report)  # no NaN, nothing that JSON does not know


def test_metrics_carry_their_level_in_their_name(report: dict[str, Any]) -> None:
    for name in ("macro_f1", "balanced_accuracy", "auroc", "ece"):
        for prefix in ("", "video_", "patient_"):
            assert 0 <= report["metrics"][prefix + name] <= 1
            low, high = report["intervals"][prefix + name]
            assert low <= high
    assert report["metrics"]["coverage"] == pytest.approx(17 / 24)


def test_frame_figures_are_those_of_the_stored_rows(workspace: Workspace, report: dict[str, Any]) -> None:
    rows = pq.read_table(workspace.predictions).to_pandas()
    kept = rows[rows.keep]
    matrix = metrics.confusion(list(kept.label), list(kept.predicted), CLASSES)
    assert report["confusion"]["matrix"] == matrix.tolist()
    assert report["metrics"]["macro_f1"] == pytest.approx(float(metrics.macro_f1(matrix)))


def test_maps_are_judged_by_masks_where_a_structure_is_outlined(workspace: Workspace) -> None:
    rows = pq.read_table(workspace.predictions).to_pandas()
    outlined = rows.video_id.isin(["v0", "v1", "v3"]) & (rows.frame_index != 2)
    for name in ("saliency_iou", "pointing", "saliency_auc"):
        assert rows[name].notna().equals(outlined)
        assert rows[name][outlined].between(0, 1).all()


def test_faithfulness_is_measured_on_the_sampled_kept_frames_alone(
    workspace: Workspace, report: dict[str, Any]
) -> None:
    rows = pq.read_table(workspace.predictions).to_pandas()
    sampled = rows[rows.deletion.notna()]
    assert len(sampled) == PARAMS.faithfulness_frames
    assert sampled.keep.all()
    assert sampled.video_id.nunique() == 5
    for name in ("deletion", "insertion", "average_drop", "confidence_increase"):
        assert sampled[name].between(0, 1).all()
        assert rows[name].notna().equals(rows.deletion.notna())
        assert report["metrics"][name] == pytest.approx(sampled[name].mean())


def test_corrupted_frames_are_counted_by_kind_and_severity(report: dict[str, Any]) -> None:
    found = report["robustness"]
    assert found["frames"] == PARAMS.corruption_frames
    assert list(found["kinds"]) == list(CORRUPTIONS)
    shares = [share for kind in found["kinds"].values() for share in kind["accuracy"]]
    assert len(shares) == len(CORRUPTIONS) * len(SEVERITIES)
    assert all((share * found["frames"]) == pytest.approx(round(share * found["frames"])) for share in shares)
    assert report["metrics"]["corrupted_accuracy"] == pytest.approx(np.mean(shares))
    low, high = report["intervals"]["corrupted_accuracy"]
    assert low <= report["metrics"]["corrupted_accuracy"] <= high


def test_turned_off_there_is_no_value_and_the_rest_is_the_same(workspace: Workspace, report: dict[str, Any]) -> None:
    off = PARAMS.model_copy(update={"corruption_frames": 0, "faithfulness_frames": 0})
    found = evaluated(workspace, off)
    assert found["robustness"] is None
    for name in ("corrupted_accuracy", "deletion", "insertion", "average_drop", "confidence_increase"):
        assert found["metrics"][name] is None
        assert found["intervals"][name] is None
    for section in ("confusion", "subgroups", "per_patient", "reliability", "selective"):
        assert found[section] == report[section]
    evaluated(workspace)


def test_sites_and_domains_are_judged_apart(workspace: Workspace, report: dict[str, Any]) -> None:
    rows = (
        pq.read_table(workspace.predictions)
        .to_pandas()
        .merge(frames.read_table(workspace.test_table)[["video_id", "site", "domain"]])
    )
    for by, names in (("site", ["north", "south"]), ("domain", ["ex-vivo", "in-vivo"])):
        assert [group["name"] for group in report["subgroups"][by]] == names
        for group in report["subgroups"][by]:
            own = rows[rows.keep & (rows[by] == group["name"])]
            assert group["frames"] == len(own)
            assert group["accuracy"] == pytest.approx((own.label == own.predicted).mean())
    in_vivo = report["subgroups"]["domain"][1]
    assert in_vivo["auroc"] is None  # only one class was kept
    assert in_vivo["intervals"]["macro_f1"] is None  # of one patient
    assert report["subgroups"]["domain"][0]["intervals"]["macro_f1"] is not None


def test_a_subgroup_without_kept_frames_has_no_values_and_is_still_listed(workspace: Workspace) -> None:
    table = pq.read_table(workspace.predictions).to_pandas()
    patients = frames.read_table(workspace.test_table)[["video_id", "patient_id", "site", "domain"]]
    rows = table.merge(patients)
    rows["site"] = rows.site.where(rows.video_id != "v5", "hill")
    group = evaluate.summarise(rows, CLASSES, PARAMS)["subgroups"]["site"][0]
    assert (group["name"], group["frames"], group["coverage"]) == ("hill", 0, 0.0)
    names = (
        "accuracy",
        "macro_f1",
        "balanced_accuracy",
        "auroc",
        "ece",
        "patient_macro_f1",
        "rejected",
        "saliency_iou",
    )
    assert all(group[name] is None for name in names)
    assert json.dumps(group, allow_nan=False)


def test_the_reject_option_is_a_point_on_the_risk_coverage_plane(workspace: Workspace, report: dict[str, Any]) -> None:
    table = pq.read_table(workspace.predictions).to_pandas()
    patients = frames.read_table(workspace.test_table)[["video_id", "patient_id", "site", "domain"]]
    rows = table.merge(patients)
    rows["reject"] = rows.label != rows.predicted
    found = evaluate.summarise(rows, CLASSES, PARAMS)
    right = float((rows[rows.keep].label == rows[rows.keep].predicted).mean())
    assert found["selective"]["reject"] == {"coverage": pytest.approx(right), "risk": 0.0}
    assert (found["metrics"]["accepted_accuracy"], found["metrics"]["rejected"]) == (1.0, pytest.approx(1 - right))
    rows["reject"] = True
    nothing = evaluate.summarise(rows, CLASSES, PARAMS)
    assert nothing["selective"]["reject"] == {"coverage": 0.0, "risk": None}
    assert nothing["metrics"]["accepted_accuracy"] is None
    last = report["selective"]["curve"][-1]
    assert last == {"coverage": 1.0, "risk": pytest.approx(1 - right)}


def test_a_frame_sample_of_one_video_says_which_frames_and_not_where_it_ran(workspace: Workspace) -> None:
    table = frames.read_table(workspace.test_table)
    work = evaluate.to_score(workspace, table, PARAMS)[0]
    alone = evaluate.score_video(dataclasses.replace(work, corrupted=1))
    again = evaluate.score_video(dataclasses.replace(work, corrupted=1))
    assert (alone.hits == again.hits).all()
    assert alone.sampled == 1
