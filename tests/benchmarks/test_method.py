"""The method's table: the baselines score as they say, cells are what they are keyed by, figures are paired."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score

import lclsc
import method as script
from comparison import baselines, cell, labelled_sets, table
from pipelines import params as parameters
from pipelines.training import Samples

ROOT = Path(__file__).parents[2]
CLASSES, SIDE_PX = 3, 32
TRAIN = parameters.load(ROOT / "params.yaml").train.model_copy(
    update={"epochs": 1, "batch_images": 12, "embedding_dim": 16}
)


@pytest.fixture(autouse=True)
def _settings_of_torch() -> Iterator[None]:
    threads, strict = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    yield
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(strict)


def samples(count: int) -> Samples:
    """Stripes of three widths under noise; two images a patient."""
    rng = np.random.default_rng(count)
    labels_N = np.arange(count) % CLASSES
    wave_S = np.sin(np.arange(SIDE_PX) * (0.4 + 0.5 * labels_N[:, None]))
    noise_NSS = rng.normal(0, 20, (count, SIDE_PX, SIDE_PX))
    return Samples(
        images_NSS=np.clip(128 + 60 * wave_S[:, None] + noise_NSS, 0, 255).astype(np.uint8),
        fov_NSS=np.ones((count, SIDE_PX, SIDE_PX), dtype=bool),
        labels_N=labels_N,
        patients=[f"p{index // 2:02d}" for index in range(count)],
        videos=[f"v{index:02d}" for index in range(count)],
    )


@pytest.fixture(scope="module")
def data() -> labelled_sets.LabelledSet:
    splits = {"train": samples(24), "validation": samples(9), "test": samples(12)}
    masks = np.zeros((12, SIDE_PX, SIDE_PX), dtype=bool)
    masks[:, 8:20, 8:20] = True
    return labelled_sets.LabelledSet(name="toy", classes=("a", "b", "c"), splits=splits, masks_NSS=masks)


def network(kind: type[lclsc.LCLSC]) -> Any:
    torch.manual_seed(0)
    return kind(lclsc.build_encoder("compact"), classes=CLASSES, embedding_dim=16).eval()


@pytest.mark.parametrize("kind", [baselines.Linear, baselines.Probe, baselines.Cosine])
def test_the_map_of_every_network_is_its_score_spread_over_the_image(kind: type[lclsc.LCLSC]) -> None:
    model = network(kind)
    image, inside = torch.rand(2, 1, SIDE_PX, SIDE_PX), torch.ones(2, 1, SIDE_PX, SIDE_PX, dtype=torch.bool)
    inside[:, :, :16] = False
    with torch.no_grad():
        scores = model(image, inside)
    bias_K = model.classifier.bias if isinstance(model, baselines.Linear) else torch.zeros(CLASSES)
    inside_B1hw = scores.fov_Bhw[:, None]
    mean_BK = (scores.class_map_BKhw * inside_B1hw).sum((2, 3)) / inside_B1hw.sum((2, 3))
    torch.testing.assert_close(mean_BK + bias_K, scores.similarity_BK, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("method", baselines.METHODS, ids=lambda method: method.name)
def test_every_method_trains_and_is_measured_alike_twice(
    method: baselines.Method, data: labelled_sets.LabelledSet
) -> None:
    if issubclass(method.trainer, baselines.Proxies):
        pytest.importorskip("pytorch_metric_learning", reason="a peer, installed by make bench-deps")
    first, second = (cell.fit(method, data, method.train_params(TRAIN)) for _ in range(2))
    before = network(baselines.Linear).state_dict()
    after = first.model.state_dict()
    assert all(torch.equal(after[name], second.model.state_dict()[name]) for name in after)
    moved = [name for name in before if name.startswith("encoder") and not torch.equal(before[name], after[name])]
    assert len(moved) == sum(name.startswith("encoder") for name in before)
    assert np.isfinite(first.history[-1]["total"])


def test_a_cell_counts_every_test_frame_once(data: labelled_sets.LabelledSet) -> None:
    found = cell.measure(baselines.METHODS[0], data, TRAIN, probed_frames=3)
    assert sum(np.sum(patient["confusion"]) for patient in found["patients"]) == 12
    assert [patient["patient"] for patient in found["patients"]] == sorted(set(data.splits["test"].patients))
    assert {patient["sums"]["saliency_iou"][1] for patient in found["patients"]} == {2}
    assert sum(patient["sums"]["corruption defocus"][1] for patient in found["patients"]) == 3
    hits = sum(patient["sums"]["correct"][0] for patient in found["patients"])
    assert hits == sum(np.trace(np.array(patient["confusion"])) for patient in found["patients"])
    json.dumps(found, allow_nan=False)


def test_the_probe_is_the_regression_on_standardised_features(data: labelled_sets.LabelledSet) -> None:
    method = next(own for own in baselines.METHODS if own.trainer is baselines.SupConProbe)
    trainer = cell.fit(method, data, method.train_params(TRAIN))
    train = data.splits["train"]
    image = torch.from_numpy(train.images_NSS)[:, None] / 255.0
    inside = torch.from_numpy(train.fov_NSS)[:, None]
    with torch.no_grad():
        features = trainer.model.features(image, inside).pooled_BD.double().numpy()
        scores = trainer.model(image, inside).similarity_BK.numpy()
    scaled = (features - features.mean(0)) / features.std(0, ddof=1)
    expected = LogisticRegression(max_iter=2000).fit(scaled, train.labels_N).decision_function(scaled)
    np.testing.assert_allclose(scores, expected, rtol=1e-3, atol=1e-3)


def test_both_baselines_and_ours_begin_with_the_same_encoder() -> None:
    linear, cosine, ours = (network(kind).encoder for kind in (baselines.Linear, baselines.Cosine, lclsc.LCLSC))
    for one, two, three in zip(linear.parameters(), cosine.parameters(), ours.parameters(), strict=True):
        assert torch.equal(one, two)
        assert torch.equal(two, three)


def test_a_comment_changes_no_digest_and_code_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cell, "ROOT", tmp_path)
    texts = ('"""Said."""\nx = 1\n', '"""Said otherwise."""\nx = 1  # why\n', "x = 2\n")
    seen = []
    for text in texts:
        (tmp_path / "code.py").write_text(text)
        seen.append(cell._code("code"))
    assert seen[0] == seen[1] != seen[2]


def test_a_digest_names_pixels_parameters_and_method(data: labelled_sets.LabelledSet) -> None:
    linear, cosine = baselines.METHODS[:2]
    other = labelled_sets.LabelledSet(
        name="toy", classes=data.classes, splits={**data.splits, "test": samples(15)}, masks_NSS=data.masks_NSS
    )
    digests = {
        cell.digest(linear, data, TRAIN),
        cell.digest(cosine, data, TRAIN),
        cell.digest(linear, other, TRAIN),
        cell.digest(linear, data, TRAIN.model_copy(update={"seed": 1})),
    }
    assert len(digests) == 4
    assert cell.digest(linear, data, TRAIN) in digests


def test_hard_phantoms_come_in_splits_with_a_mask_for_every_test_frame() -> None:
    extract = parameters.load(ROOT / "params.yaml").extract
    hard = labelled_sets.hard(extract, quick=True)
    patients = {name: set(own.patients) for name, own in hard.splits.items()}
    assert {name: len(own) for name, own in patients.items()} == {"train": 8, "validation": 4, "test": 12}
    assert len(set.union(*patients.values())) == 24
    test = hard.splits["test"]
    assert hard.masks_NSS is not None
    assert hard.masks_NSS.shape == test.images_NSS.shape
    assert not (hard.masks_NSS & ~test.fov_NSS).any()
    assert hard.masks_NSS.any((1, 2)).mean() > 0.9
    assert hard.digest == labelled_sets.hard(extract, quick=True).digest


def test_blocks_of_cells_are_shared_out_once() -> None:
    splits = labelled_sets._elpv_splits(90)
    assert [splits.count(name) for name in labelled_sets.SPLITS] == [45, 18, 27]
    assert splits == labelled_sets._elpv_splits(90)


def fake(seed: int, hits: list[int]) -> dict[str, Any]:
    """Four patients of two classes, 10 frames each, so many of them right."""
    patients = []
    for index, right in enumerate(hits):
        matrix = np.zeros((2, 2), dtype=int)
        matrix[index % 2, index % 2], matrix[index % 2, 1 - index % 2] = right, 10 - right
        sums = {"corruption": [right / 2, 10], "saliency_iou": [right / 4, 10]}
        patients.append({"patient": f"p{index}", "labels": [index % 2], "confusion": matrix.tolist(), "sums": sums})
    figures = dict.fromkeys(table.FIGURES, 0.5)
    return {
        "seed": seed,
        "patients": patients,
        "levels": dict.fromkeys(table.LEVELS, figures),
        "validation_macro_f1": 0.5,
        "train_seconds": 1.0,
    }


def everyone(ours: list[int], others: list[int]) -> dict[str, list[dict[str, Any]]]:
    return {
        method.name: [fake(seed, ours if method.name == baselines.OURS else others) for seed in (0, 1)]
        for method in baselines.METHODS
    }


def test_a_pooled_figure_is_the_mean_over_seeds() -> None:
    cells = [fake(0, [9, 8, 7, 10]), fake(1, [5, 5, 5, 5])]
    truth = np.repeat([0, 1, 0, 1], 10)
    scores = []
    for own in ([9, 8, 7, 10], [5, 5, 5, 5]):
        right = np.concatenate([np.arange(10) < hits for hits in own])
        scores.append(f1_score(truth, np.where(right, truth, 1 - truth), average="macro"))
    found = table.pooled(cells, "macro_f1")
    assert found is not None
    assert found.value == pytest.approx(np.mean(scores))
    low, high = found.interval or (np.nan, np.nan)
    assert low <= found.value <= high


def test_methods_are_compared_on_the_same_draws() -> None:
    cells = everyone([9, 8, 7, 10], [9, 8, 7, 10])
    ours, other = (table.pooled(cells[name], "macro_f1") for name in (baselines.OURS, baselines.METHODS[0].name))
    assert ours is not None
    assert other is not None
    assert ours.minus(other).interval == [0.0, 0.0]


@pytest.mark.parametrize(("ours", "holds"), [([10, 10, 9, 10], True), ([5, 5, 5, 5], False)])
def test_a_claim_says_who_leads(ours: list[int], holds: bool) -> None:
    found = table.claims("toy", everyone(ours, [8, 8, 8, 8]), ["macro_f1", "saliency_iou"], 2)
    assert [claim.holds for claim in found] == [holds, holds]


def test_a_claim_is_open_until_every_cell_is_there() -> None:
    cells = everyone([10, 10, 10, 10], [5, 5, 5, 5])
    cells[baselines.METHODS[2].name].pop()
    assert [claim.holds for claim in table.claims("toy", cells, ["macro_f1"], 2)] == [None]
    assert [claim.value for claim in table.claims("toy", {}, ["macro_f1"], 2)] == [None]


def test_a_line_cut_short_is_no_cell(tmp_path: Path) -> None:
    path = tmp_path / "cells.jsonl"
    script._note(path, {"digest": "whole"})
    with path.open("a") as file:
        file.write('{"digest": "ha')
    assert list(script._known(path)) == ["whole"]


def test_no_cell_begins_that_would_not_end_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(script.time, "monotonic", lambda: 100.0)
    assert script._fits(SimpleNamespace(deadline=None), 1e9)
    assert script._fits(SimpleNamespace(deadline=131.0), 30.0)
    assert not script._fits(SimpleNamespace(deadline=129.0), 30.0)
