"""The train loop without Ray: bytes that survive a kill after any step, another folder, another number of workers."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import distributed as dist
from torch import multiprocessing

import lclsc
from pipelines import checkpoint, params, training
from pipelines.workspace import template_file

CLASSES = ["glioma", "healthy"]


def settings(**changes: Any) -> params.TrainParams:
    """Two epochs of three steps."""
    shipped = params.load(template_file("params.yaml")).train
    small = {"epochs": 2, "batch_images": 8, "embedding_dim": 16, "precision": "float32"}
    return params.TrainParams.model_validate(shipped.model_dump() | small | changes)


def samples(seed: int, patients: int) -> training.Samples:
    """Four frames a patient; a class shows as the pitch of its stripes."""
    generator = np.random.default_rng(seed)
    count = 4 * patients
    labels = np.arange(count) // 4 % 2
    phase = generator.uniform(0, 6, (count, 1, 1))
    wave = np.sin(np.arange(32) * (0.4 + 0.8 * labels[:, None, None]) + phase)
    noise = generator.normal(0, 10, (count, 32, 32))
    return training.Samples(
        images_NSS=(120 + 60 * wave + noise).clip(0, 255).astype(np.uint8),
        fov_NSS=np.ones((count, 32, 32), dtype=bool),
        labels_N=labels.astype(np.int64),
        patients=[f"p{index // 4}" for index in range(count)],
        videos=[f"v{index // 2}" for index in range(count)],
    )


def test_the_library_begins_with_the_settings_that_params_yaml_ships() -> None:
    shipped = params.load(template_file("params.yaml")).train
    assert training.objective(shipped) == lclsc.ObjectiveSettings()
    assert lclsc.GlobalEmbeddings(classes=2, embedding_dim=4).momentum == shipped.momentum


def trainer(chosen: params.TrainParams | None = None) -> training.Trainer:
    chosen = chosen or settings()
    training.prepare_torch(chosen)
    card = {"classes": CLASSES, "encoder": "compact", "embedding_dim": chosen.embedding_dim, "momentum": 0.9}
    job = training.Job(params=chosen, card=card, train=None, validation=None, channel=None)
    return training.Trainer(job, samples(1, patients=6), samples(2, patients=10), torch.device("cpu"))


def finished(one: training.Trainer, folder: Path) -> tuple[bytes, dict[str, Any]]:
    """Train to the end; the weights' bytes, and what the report will say."""
    for _ in one.steps():
        pass
    return saved(one, folder)


def saved(one: training.Trainer, folder: Path) -> tuple[bytes, dict[str, Any]]:
    folder.mkdir(parents=True, exist_ok=True)
    one.save(folder)
    progress = json.loads((folder / checkpoint.PROGRESS).read_text())
    progress.pop("restarts")
    return (folder / checkpoint.WEIGHTS).read_bytes(), progress


@pytest.fixture(autouse=True)
def torch_as_it_was() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(False)
    torch.utils.deterministic.fill_uninitialized_memory = True


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, dict[str, Any]]:
    return finished(trainer(), tmp_path_factory.mktemp("undisturbed"))


def test_a_training_that_changes_hands_after_every_step_gives_the_same_bytes(
    tmp_path: Path, undisturbed: tuple[bytes, dict[str, Any]]
) -> None:
    runner = trainer()
    total = runner.total_steps
    for step in range(1, total + 1):
        next(runner.steps())
        runner.save(_made(tmp_path / f"folder-{step}"))
        runner = trainer()
        runner.restore(tmp_path / f"folder-{step}")
        assert (runner.step, runner.restarts) == (step, step)
    assert list(runner.steps()) == []
    assert saved(runner, tmp_path / "end") == undisturbed


def test_the_report_has_one_entry_an_epoch_with_the_mean_of_its_steps(
    undisturbed: tuple[bytes, dict[str, Any]],
) -> None:
    _, progress = undisturbed
    assert [entry["epoch"] for entry in progress["history"]] == [1, 2]
    assert (progress["position"], progress["loss_sums"]) == (0, {})
    losses: list[float] = []
    runner = trainer()
    runner._tell = lambda loss, *_: losses.append(loss)  # type: ignore[method-assign]
    for _ in range(3):
        next(runner.steps())
    assert runner.history[0]["total"] == pytest.approx(np.mean(losses[:3]))


def test_recomputed_embeddings_are_the_mean_directions_of_the_training_frames(tmp_path: Path) -> None:
    runner = trainer(settings(embeddings="recomputed"))
    finished(runner, tmp_path)
    frames = runner.train
    with torch.no_grad():
        images, inside = torch.tensor(frames.images_NSS)[:, None] / 255, torch.tensor(frames.fov_NSS)[:, None]
        z = runner.model.eval().embed(images, inside).z_BD
    for label, vector in enumerate(runner.model.global_embeddings.vectors):
        mean = z[torch.tensor(frames.labels_N) == label].mean(0)
        torch.testing.assert_close(vector, mean / mean.norm(), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "change",
    [
        {"global_keys": False},
        {"class_balanced": True},
        {"embeddings": "recomputed"},
        {"consistency": "cosine", "saliency_weight": 9.0},
        {"consistency": "l1", "saliency_weight": 9.0},
        {"precision": "bfloat16"},
    ],
    ids=str,
)
def test_every_option_trains_and_makes_another_model(
    change: dict[str, Any], tmp_path: Path, undisturbed: tuple[bytes, dict[str, Any]]
) -> None:
    weights, progress = finished(trainer(settings(**change)), tmp_path)
    assert weights != undisturbed[0]
    assert all(np.isfinite(list(entry.values())).all() for entry in progress["history"])


def test_calibration_is_fitted_unless_it_is_switched_off(
    tmp_path: Path, undisturbed: tuple[bytes, dict[str, Any]]
) -> None:
    _, plain = finished(trainer(settings(calibration="none")), tmp_path)
    assert plain["calibration"]["temperature"] == settings().temperature
    assert undisturbed[1]["calibration"]["temperature"] != settings().temperature


def test_a_checkpoint_is_due_by_the_clock_and_at_the_end() -> None:
    runner = trainer()
    steps = runner.steps()
    next(steps)
    runner.checkpoint_seconds = 3600.0
    assert not runner.checkpoint_is_due()
    runner.checkpoint_seconds = 0.0
    assert runner.checkpoint_is_due()
    runner.checkpoint_seconds = 3600.0
    for _ in steps:
        pass
    assert runner.checkpoint_is_due()


def test_killed_on_four_workers_and_resumed_elsewhere_on_two_is_one_undisturbed(
    tmp_path: Path, undisturbed: tuple[bytes, dict[str, Any]]
) -> None:
    chance = random.randrange(1, 6)
    ranks = _start(4, tmp_path / "four", None)
    _wait_for(tmp_path / "four" / f"step-{chance}", ranks)
    for rank in ranks:
        os.kill(rank.pid, signal.SIGKILL)
    for rank in ranks:
        rank.join()
    newest = max((tmp_path / "four").glob("step-*"), key=lambda folder: int(folder.name[5:]))
    shutil.move(newest, tmp_path / "elsewhere")
    ranks = _start(2, tmp_path / "two", tmp_path / "elsewhere")
    for rank in ranks:
        rank.join()
        assert rank.exitcode == 0
    assert len(list((tmp_path / "two").glob("step-*"))) == 6 - int(newest.name[5:]), chance
    end = tmp_path / "two" / "step-6"
    assert (end / checkpoint.WEIGHTS).read_bytes() == undisturbed[0], chance
    assert json.loads((end / checkpoint.PROGRESS).read_text()) == undisturbed[1] | {"restarts": 1}


def run_rank(rank: int, size: int, folder: Path, resume: Path | None) -> None:
    """One worker: train to the end with a checkpoint after every step, whole or absent."""
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=size)
    runner = trainer()
    runner.checkpoint_seconds = 0.0
    if resume:
        runner.restore(resume)
    for _ in runner.steps():
        assert runner.checkpoint_is_due()
        if rank == 0:
            runner.save(_made(folder / ".draft"))
            (folder / ".draft").rename(folder / f"step-{runner.step}")
        time.sleep(0.05)
    dist.destroy_process_group()


def _start(size: int, folder: Path, resume: Path | None) -> list[Any]:
    folder.mkdir()
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["pipelines.training"])  # one import for all ranks
    ranks = [context.Process(target=run_rank, args=(rank, size, folder, resume), daemon=True) for rank in range(size)]
    for rank in ranks:
        rank.start()
    return ranks


def _wait_for(path: Path, ranks: list[Any]) -> None:
    deadline = time.monotonic() + 120
    while not path.exists():
        assert all(rank.exitcode in (None, 0) for rank in ranks)
        assert time.monotonic() < deadline
        time.sleep(0.01)


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


@pytest.mark.parametrize(("every", "messages"), [(0.0, 8), (1e9, 3)])
def test_the_driver_hears_of_each_epoch_and_of_steps_no_more_often_than_it_looks(
    monkeypatch: pytest.MonkeyPatch, every: float, messages: int
) -> None:
    monkeypatch.setattr(training, "TELL_SECONDS", every)
    one, heard = trainer(), list[tuple[Any, ...]]()
    one.channel = SimpleNamespace(put=SimpleNamespace(remote=lambda *news: heard.append(news)))
    for _ in one.steps():
        pass
    assert [metrics["epoch"] for *_, metrics in heard if metrics] == [1, 2]
    assert (heard[-1][0], len(heard)) == (one.total_steps, messages)
