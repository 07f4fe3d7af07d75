"""Many workers that equal one. The only file that knows ``torch.distributed``.

A batch is cut into S *logical shards*, whatever the number of ranks W; shard s lives on rank s // (S / W).
Values cross ranks as whole shards and are added in shard order, so the bits do not depend on W.

``train_step`` works so. For a loop of one's own there is the form with one backward pass through the gather,
``gathered_label_contrast``: the same gradient but for the order of addition.
"""

from collections.abc import Callable, Sequence
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

    def sum_gradients(self, local: Sequence[Tensor], reduction: Reduction) -> Tensor:
        """The sum of all shards' flat gradients, on every rank; see the two functions it chooses from."""
        if reduction not in get_args(Reduction):
            raise ValueError(f"reduction {reduction!r} is unknown: choose one of {get_args(Reduction)}")
        return self.ordered_gradient_sum(local) if reduction == "ordered" else self.ddp_gradient_sum(local)

    def ordered_gradient_sum(self, local: Sequence[Tensor]) -> Tensor:
        """Added in the order of shards 0..S-1: the same bits for any W that divides S. Costs S broadcasts."""
        total = torch.zeros_like(local[0])
        for shard in range(len(local) * self.size):
            total += self._from_owner(shard, local)
        return total

    def _from_owner(self, shard: int, local: Sequence[Tensor]) -> Tensor:
        owner, index = divmod(shard, len(local))
        if self.size == 1:
            return local[index]
        sent = local[index].contiguous() if owner == self.rank else torch.empty_like(local[0])
        dist.broadcast(sent, src=owner)
        return sent

    def ddp_gradient_sum(self, local: Sequence[Tensor]) -> Tensor:
        """Added on each rank, then all-reduced as a sum (no mean): faster, but the bits depend on W."""
        total = torch.stack(list(local)).sum(0)
        if self.size > 1:
            dist.all_reduce(total)
        return total


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
