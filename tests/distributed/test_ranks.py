"""Many ranks equal one: real gloo processes with different data against a single process."""

import itertools
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, multiprocessing
from torch import distributed as dist
from torch.nn.parallel import DistributedDataParallel

from lclsc import (
    LCLSC,
    ObjectiveSettings,
    ShardBatch,
    ViewSettings,
    World,
    build_encoder,
    gathered_label_contrast,
    label_contrast,
    make_views,
    train_step,
)

SHARDS = {2: 4, 3: 6, 4: 4}  # logical shards of each world of ranks
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


def in_double(index: int) -> ShardBatch:
    """Float64: the order of addition is then no difference, on any processor."""
    return replace(shard(index), image_B1SS=shard(index).image_B1SS.double())


def fresh() -> LCLSC:
    torch.manual_seed(0)
    model = LCLSC(build_encoder("compact"), classes=3, embedding_dim=16)
    model.global_embeddings.update_(torch.randn(30, 16), torch.arange(30) % 3)
    return model


def train(world: World, reduction: str, logical_shards: int) -> dict[str, object]:
    """Two whole steps; everything that must agree. Ordered sums agree in float32 already, others need float64."""
    exact = reduction == "ordered"
    model = fresh() if exact else fresh().double()
    optimiser = torch.optim.SGD(model.parameters(), lr=0.01)
    shards = [(shard if exact else in_double)(index) for index in world.local_shards(logical_shards)]
    losses, gradients = [], []
    for step in range(STEPS):
        result = train_step(
            model,
            shards,
            ObjectiveSettings(),
            step=60 + step,
            total_steps=100,
            seed=0,
            epoch=step,
            world=world,
            logical_shards=logical_shards,
            reduction=reduction,
        )
        losses.append(result.losses)
        optimiser.step()
        model.global_embeddings.update_(result.z_ND, result.labels_N)
        gradients.append(gradient_of(model))
    embeddings = model.global_embeddings.vectors
    return {"losses": losses, "z": result.z_ND, "gradient": torch.stack(gradients), "embeddings": embeddings}


class BothViews(torch.nn.Module):
    """A shard's embeddings as the step orders them: a module, as DistributedDataParallel wants one."""

    def __init__(self, model: LCLSC) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: ShardBatch) -> Tensor:
        arguments = (batch.image_B1SS, batch.fov_B1SS, batch.sample_index_B)
        looks = [make_views(*arguments, seed=0, epoch=0, view=view, settings=ViewSettings()) for view in (0, 1)]
        images, masks = (torch.cat([getattr(look, name) for look in looks]) for name in ("image_B1SS", "fov_B1SS"))
        return self.model.embed(images, masks).z_BD


def library_form(world: World, *, averaged: bool, balanced: bool) -> dict[str, Tensor]:
    """One shard a rank through one backward pass: gradients averaged by PyTorch's own DDP, or summed by hand."""
    model, batch = fresh().double(), in_double(world.rank)
    network = DistributedDataParallel(BothViews(model)) if averaged else BothViews(model)
    z_ND = network(batch)
    labels_N = torch.cat((batch.labels_B, batch.labels_B))
    total, count = gathered_label_contrast(z_ND, labels_N, world=world, temperature=0.1, class_balanced=balanced)
    (total / count * (world.size if averaged else 1)).backward()
    loss, gradient = (total / count).detach(), gradient_of(model)
    dist.all_reduce(loss)
    if not averaged:
        dist.all_reduce(gradient)
    return {"loss": loss, "gradient": gradient, "count": count}


def label_contrast_of_the_step(shards: int, *, balanced: bool) -> dict[str, object]:
    """The trainer's step in one process at a moment at which only label contrast counts."""
    model = fresh().double()
    result = train_step(
        model,
        [in_double(index) for index in range(shards)],
        ObjectiveSettings(temperature=0.1, class_balanced=balanced, global_keys=False),
        step=0,
        total_steps=100,
        seed=0,
        epoch=0,
        world=World(),
        logical_shards=shards,
    )
    return {"loss": result.losses["lcl"], "gradient": gradient_of(model), "count": result.counts["lcl"]}


def gradient_of(model: LCLSC) -> Tensor:
    return torch.cat([parameter.grad.flatten() for parameter in model.parameters()])


def run_rank(rank: int, folder: str) -> None:
    """One process of four: a world of four, then one of three and one of two among the first ranks."""
    torch.set_num_threads(1)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    for size, shards in sorted(SHARDS.items(), reverse=True):
        if rank < size:
            store = f"file://{folder}/store{size}"
            dist.init_process_group("gloo", init_method=store, rank=rank, world_size=size)
            world = World.current()
            results = {reduction: train(world, reduction, shards) for reduction in ("ordered", "ddp")}
            for averaged, balanced in itertools.product((False, True), repeat=2):
                results[f"library {averaged} {balanced}"] = library_form(world, averaged=averaged, balanced=balanced)
            torch.save(results, f"{folder}/{size}-{rank}.pt")
            dist.destroy_process_group()


@pytest.fixture(scope="module", params=sorted(SHARDS))
def size(request: pytest.FixtureRequest) -> int:
    return request.param


@pytest.fixture(scope="module")
def single(size: int) -> dict[str, dict[str, object]]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    results = {reduction: train(World(), reduction, SHARDS[size]) for reduction in ("ordered", "ddp")}
    torch.set_num_threads(threads)
    return results


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the ranks of all worlds left."""
    folder = tmp_path_factory.mktemp("ranks")
    multiprocessing.spawn(run_rank, args=(str(folder),), nprocs=max(SHARDS))
    return folder


@pytest.fixture(scope="module")
def ranks(size: int, folder: Path) -> list[dict]:
    return [torch.load(folder / f"{size}-{rank}.pt") for rank in range(size)]


@pytest.mark.parametrize("balanced", [False, True])
@pytest.mark.parametrize("averaged", [False, True])
def test_a_backward_pass_through_the_gather_is_the_step_of_one_process(size, ranks, averaged, balanced):
    step = label_contrast_of_the_step(size, balanced=balanced)
    for rank in ranks:
        library = rank[f"library {averaged} {balanced}"]
        assert float(library["loss"]) == pytest.approx(step["loss"], abs=1e-9)
        assert int(library["count"]) == step["count"]
        torch.testing.assert_close(library["gradient"], step["gradient"], rtol=0, atol=1e-9)
    assert float(step["gradient"].abs().max()) > 1e-2, "and there is a gradient to speak of"


def test_ordered_sums_are_the_single_process_byte_for_byte(single, ranks):
    for rank in ranks:
        for name in ("z", "gradient", "embeddings"):
            mine, other = single["ordered"][name], rank["ordered"][name]
            assert mine.numpy().tobytes() == other.numpy().tobytes(), name
        assert rank["ordered"]["losses"] == single["ordered"]["losses"]


def test_ddp_sums_are_the_single_process_in_value_and_gradient(single, ranks):
    for rank in ranks:
        mine, other = single["ddp"], rank["ddp"]
        for step in range(STEPS):
            assert other["losses"][step] == pytest.approx(mine["losses"][step], abs=1e-6)
        torch.testing.assert_close(other["gradient"], mine["gradient"], rtol=0, atol=1e-6)
        torch.testing.assert_close(other["embeddings"], mine["embeddings"], rtol=0, atol=1e-6)


def test_all_ranks_hold_equal_embeddings_and_gradients_bit_for_bit(ranks):
    for one, two in itertools.pairwise(ranks):
        for reduction in ("ordered", "ddp"):
            assert torch.equal(one[reduction]["embeddings"], two[reduction]["embeddings"])
            assert torch.equal(one[reduction]["gradient"], two[reduction]["gradient"])


def test_a_world_of_one_is_the_plain_loss():
    z, labels = torch.randn(6, 4, generator=torch.Generator().manual_seed(0)), torch.arange(6) % 2
    total, count = gathered_label_contrast(z, labels, world=World(), temperature=0.5)
    expected, covered = label_contrast(z, labels, z, labels, first_key=0, temperature=0.5)
    assert (float(total), int(count)) == (pytest.approx(float(expected)), int(covered))


def test_a_world_that_does_not_divide_the_shards_is_refused():
    with pytest.raises(ValueError, match="4 logical shards over 3 workers"):
        World(size=3).local_shards(4)


def test_shards_lie_in_contiguous_blocks():
    blocks = [list(World(rank=rank, size=2).local_shards(4)) for rank in range(2)]
    assert blocks == [[0, 1], [2, 3]]


def test_without_a_process_group_the_world_is_one():
    assert World.current() == World(rank=0, size=1)
