"""End to end: three textures are learnt within a few dozen steps and recognised on fresh samples."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from lclsc import LCLSC, ObjectiveSettings, ShardBatch, World, build_encoder, train_step

SIDE_PX = 48


def texture(kind: int, rng: np.random.Generator) -> np.ndarray:
    """Stripes, dots or blobs of random phase and direction under noise, float32 in [0, 1]."""
    y, x = np.mgrid[:SIDE_PX, :SIDE_PX] + rng.uniform(0, 20, (2, 1, 1))
    angle = rng.uniform(0, np.pi)
    u, v = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    clean = (np.sin(u), np.sin(u) * np.sin(v), np.sin(0.35 * u) * np.sin(0.35 * v))[kind]
    return np.clip(0.5 + 0.25 * clean + rng.normal(0, 0.08, clean.shape), 0, 1).astype(np.float32)


def samples(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(seed)
    labels = torch.arange(count) % 3
    images = torch.from_numpy(np.stack([texture(int(kind), rng) for kind in labels]))[:, None]
    axis = torch.linspace(-1, 1, SIDE_PX)
    fov = (axis[:, None] ** 2 + axis[None] ** 2 < 0.95).expand_as(images)
    return images * fov, fov, labels


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Tiny tensors: more threads on a busy machine only wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("seed", [0, 1])
def test_three_textures_are_learnt_and_recognised_on_fresh_samples(seed):
    torch.manual_seed(seed)
    model = LCLSC(build_encoder("compact"), classes=3, embedding_dim=32, momentum=0.9)
    optimiser = torch.optim.AdamW(model.parameters(), lr=2e-3)
    losses = []
    for step in range(40):
        images, fov, labels = samples(24, seed=100 * seed + step)
        index = torch.arange(24) + 24 * step
        parts = zip(*(tensor.chunk(4) for tensor in (images, fov, labels, index)), strict=True)
        names = ("image_B1SS", "fov_B1SS", "labels_B", "sample_index_B")
        shards = [ShardBatch(**dict(zip(names, part, strict=True))) for part in parts]
        place = {"step": step, "total_steps": 40, "seed": seed, "epoch": 0}
        result = train_step(model, shards, ObjectiveSettings(), **place, world=World(), logical_shards=4)
        optimiser.step()
        model.global_embeddings.update_(result.z_ND, result.labels_N)
        losses.append(result.losses["lcl"])
    model.eval()
    images, fov, labels = samples(60, seed=10_000)
    with torch.no_grad():
        predicted = model(images, fov).similarity_BK.argmax(1)
    assert losses[-1] < losses[0]
    assert (predicted == labels).float().mean() > 0.9
