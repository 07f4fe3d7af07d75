"""Many ranks equal one: real gloo processes with different data against a single process."""

import itertools
import os
from pathlib import Path

import pytest
import torch
from torch import distributed as dist
from torch import multiprocessing

from lclsc import LCLSC, ObjectiveSettings, ShardBatch, World, build_encoder, train_step

SHARDS = 4
STEPS = 2  # the second one starts from weights and embeddings that the first one made


def shard(index: int) -> ShardBatch:
    """Shard ``index`` of one fixed batch: every shard holds other images, and other labels."""
    generator = torch.Generator().manual_seed(index)
    return ShardBatch(
        image_B1SS=torch.rand(3, 1, 32, 32, generator=generator),
        fov_B1SS=torch.rand(3, 1, 32, 32, generator=generator) < 0.9995,
        labels_B=torch.randint(3, (3,), generator=generator),
        sample_index_B=torch.arange(3 * index, 3 * index + 3),
    )


def train(world: World, reduction: str) -> dict[str, object]:
    """Two whole steps; everything that must agree."""
    torch.manual_seed(0)
    model = LCLSC(build_encoder("compact"), classes=3, embedding_dim=16)
    model.global_embeddings.update_(torch.randn(30, 16), torch.arange(30) % 3)
    optimiser = torch.optim.SGD(model.parameters(), lr=0.01)
    shards = [shard(index) for index in world.local_shards(SHARDS)]
    losses, gradients = [], []
    for step in range(STEPS):
        result = train_step(
            model,
            shards,
            ObjectiveSettings(),
            step=50 + step,
            total_steps=100,
            seed=0,
            epoch=step,
            world=world,
            logical_shards=SHARDS,
            reduction=reduction,
        )
        losses.append(result.losses)
        optimiser.step()
        model.global_embeddings.update_(result.z_ND, result.labels_N)
        gradients.append(torch.cat([parameter.grad.flatten() for parameter in model.parameters()]))
    embeddings = model.global_embeddings.vectors
    return {"losses": losses, "z": result.z_ND, "gradient": torch.stack(gradients), "embeddings": embeddings}


def run_rank(rank: int, folder: str) -> None:
    """One process of four: first a world of four, then, in the first two, a world of two."""
    torch.set_num_threads(1)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    for size in (4, 2):
        if rank < size:
            store = f"file://{folder}/store{size}"
            dist.init_process_group("gloo", init_method=store, rank=rank, world_size=size)
            results = {reduction: train(World.current(), reduction) for reduction in ("ordered", "ddp")}
            torch.save(results, f"{folder}/{size}-{rank}.pt")
            dist.destroy_process_group()


@pytest.fixture(scope="module")
def single() -> dict[str, dict[str, object]]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    results = {reduction: train(World(), reduction) for reduction in ("ordered", "ddp")}
    torch.set_num_threads(threads)
    return results


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the ranks of both worlds left."""
    folder = tmp_path_factory.mktemp("ranks")
    multiprocessing.spawn(run_rank, args=(str(folder),), nprocs=4)
    return folder


@pytest.fixture(scope="module", params=[2, 4])
def ranks(request: pytest.FixtureRequest, folder: Path) -> list[dict]:
    return [torch.load(folder / f"{request.param}-{rank}.pt") for rank in range(request.param)]


def test_ordered_sums_are_the_single_process_byte_for_byte(single, ranks):
    for rank in ranks:
        for name in ("z", "gradient", "embeddings"):
            mine, other = single["ordered"][name], rank["ordered"][name]
            assert mine.numpy().tobytes() == other.numpy().tobytes(), name
        assert rank["ordered"]["losses"] == single["ordered"]["losses"]


def test_ddp_sums_are_the_single_process_in_value_and_gradient(single, ranks):
    for rank in ranks:
        mine, other = single["ddp"], rank["ddp"]
        assert other["losses"][0] == pytest.approx(mine["losses"][0], abs=1e-6)
        torch.testing.assert_close(other["gradient"][0], mine["gradient"][0], rtol=0, atol=1e-6)
        # the second step starts from weights that already differ in their last bits
        torch.testing.assert_close(other["gradient"][1], mine["gradient"][1], rtol=0, atol=1e-5)


def test_all_ranks_hold_equal_embeddings_and_gradients_bit_for_bit(ranks):
    for one, two in itertools.pairwise(ranks):
        for reduction in ("ordered", "ddp"):
            assert torch.equal(one[reduction]["embeddings"], two[reduction]["embeddings"])
            assert torch.equal(one[reduction]["gradient"], two[reduction]["gradient"])


def test_a_world_that_does_not_divide_the_shards_is_refused():
    with pytest.raises(ValueError, match="4 logical shards over 3 workers"):
        World(size=3).local_shards(4)


def test_shards_lie_in_contiguous_blocks():
    blocks = [list(World(rank=rank, size=2).local_shards(4)) for rank in range(2)]
    assert blocks == [[0, 1], [2, 3]]


def test_without_a_process_group_the_world_is_one():
    assert World.current() == World(rank=0, size=1)
