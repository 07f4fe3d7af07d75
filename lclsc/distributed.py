"""Many workers that equal one. The only file that knows ``torch.distributed``.

A batch is cut into S *logical shards*, whatever the number of ranks W; shard s lives on rank s // (S / W).
Embeddings and counts cross ranks as whole shards, gradients as a running sum in shard order, so the bits do not
depend on W; with ``ddp`` as each rank's sum, and they do.

``train_step`` works so. For a loop of one's own there is the form with one backward pass through the gather,
``gathered_label_contrast``: the same gradient but for the order of addition.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor
from torch import distributed as dist
from torch.distributed.nn import functional as differentiable

from lclsc.label_contrast import label_contrast

Reduction = Literal["ordered", "ddp"]


@dataclass(frozen=True, kw_only=True)
class World:
    """This process's place among its peers: ``rank`` of ``size``."""

    rank: int = 0
    size: int = 1

    @classmethod
    def current(cls) -> "World":
        """The default process group, or a world of one where none is initialised."""
        if not (dist.is_available() and dist.is_initialized()):
            return cls()
        return cls(rank=dist.get_rank(), size=dist.get_world_size())

    def local_shards(self, logical_shards: int) -> range:
        """The shards of this rank: one contiguous block."""
        if logical_shards < 1 or logical_shards % self.size:
            raise ValueError(f"{logical_shards} logical shards over {self.size} workers: it must divide them")
        block = logical_shards // self.size
        return range(self.rank * block, (self.rank + 1) * block)

    def gather_shards(self, local: Sequence[Tensor]) -> list[Tensor]:
        """Every rank's tensors, in global shard order. All of one shape and dtype, without gradient."""
        if self.size == 1:
            return list(local)
        mine = torch.stack([tensor.detach() for tensor in local])
        everyone = [torch.empty_like(mine) for _ in range(self.size)]
        dist.all_gather(everyone, mine)
        return list(torch.cat(everyone).unbind(0))

    def gather_with_gradient(self, local: Tensor) -> Tensor:
        """Every rank's tensor, all of one shape, joined in rank order; the gradient of all ranks' losses flows back."""
        all_gather: Callable[[Tensor], tuple[Tensor, ...]] = differentiable.all_gather
        return torch.cat(all_gather(local)) if self.size > 1 else local

    def sum_counts(self, local: Tensor) -> Tensor:
        """A count over all ranks, without gradient: what each rank divides its own sum by."""
        total = local.detach().clone()
        if self.size > 1:
            dist.all_reduce(total)
        return total

    def sum_gradients(self, local: Iterable[Sequence[Tensor]], into: Sequence[Tensor], reduction: Reduction) -> None:
        """Add the gradients of all shards, one tensor a parameter, to the zeros in ``into``, on every rank."""
        if reduction not in get_args(Reduction):
            raise ValueError(f"reduction {reduction!r} is unknown: choose one of {get_args(Reduction)}")
        if reduction == "ordered":
            self._add_in_order(local, into)
        else:
            self._add_here_then_everywhere(local, into)

    def _add_in_order(self, local: Iterable[Sequence[Tensor]], into: Sequence[Tensor]) -> None:
        """Shards 0..S-1 one after the other, from rank to rank: the same bits for any W that divides S.

        W - 1 messages and one broadcast, each as large as the network. Tested with gloo.
        """
        if self.rank > 0:
            local = list(local)  # computed while the ranks before are at theirs
            _receive(into, lambda flat: dist.recv(flat, src=self.rank - 1))
        _add(local, into)
        if self.rank + 1 < self.size:
            dist.send(_flat(into), dst=self.rank + 1)
            _receive(into, lambda flat: dist.broadcast(flat, src=self.size - 1))
        elif self.size > 1:
            dist.broadcast(_flat(into), src=self.rank)

    def _add_here_then_everywhere(self, local: Iterable[Sequence[Tensor]], into: Sequence[Tensor]) -> None:
        """Added on each rank, then all-reduced as a sum (no mean): less waiting, but the bits depend on W."""
        _add(local, into)
        if self.size > 1:
            _receive(into, dist.all_reduce)


def _add(shards: Iterable[Sequence[Tensor]], into: Sequence[Tensor]) -> None:
    for shard in shards:
        for total, part in zip(into, shard, strict=True):
            total += part


def _flat(tensors: Sequence[Tensor]) -> Tensor:
    return torch.cat([tensor.flatten() for tensor in tensors])


def _receive(into: Sequence[Tensor], fill: Callable[[Tensor], object]) -> None:
    """Let ``fill`` change all of ``into`` at once, as one vector."""
    flat = _flat(into)
    fill(flat)
    for tensor, part in zip(into, torch.split(flat, [tensor.numel() for tensor in into]), strict=True):
        tensor.copy_(part.view_as(tensor))


def gathered_label_contrast(
    z_ND: Tensor, labels_N: Tensor, *, world: World, temperature: float, class_balanced: bool = False
) -> tuple[Tensor, Tensor]:
    """This rank's N anchors against everyone's keys: its part of the summed loss, and the count over *all* ranks.

    ``total / count`` is the loss where gradients are summed over ranks; where they are averaged, as
    DistributedDataParallel does, it is ``world.size * total / count``. Dividing by the local count, or gathering
    without gradient, trains in another direction. The same holds for the sums of the saliency losses.
    """
    keys_KD = world.gather_with_gradient(z_ND)
    key_labels_K = torch.cat(world.gather_shards([labels_N]))
    total, count = label_contrast(
        z_ND,
        labels_N,
        keys_KD,
        key_labels_K,
        first_key=world.rank * len(z_ND),
        temperature=temperature,
        class_balanced=class_balanced,
    )
    return total, world.sum_counts(count)
