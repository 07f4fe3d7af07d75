"""What all contestants of the loss benchmark do alike. Only torch, which is passed in: each has its own."""

import time
from collections.abc import Callable
from types import ModuleType
from typing import Any

from serve import Numbers, peak_bytes, seconds_of

CLASSES = 8


def embeddings(torch: ModuleType, size: int, width: int) -> tuple[Any, Any]:
    """Unit embeddings (N, D) that want a gradient, and labels (N,): the same numbers for everyone."""
    generator = torch.Generator().manual_seed(0)
    z_ND = torch.nn.functional.normalize(torch.randn(size, width, generator=generator), dim=1)
    return z_ND.requires_grad_(), torch.arange(size) % CLASSES


def plain_work(torch: ModuleType, z_ND: Any) -> Numbers:
    """Seconds of one product of all pairs and its log-sum-exp: how fast this torch is on this machine."""
    with torch.no_grad():
        return {"plain": seconds_of(lambda: (z_ND @ z_ND.T).logsumexp(1))}


def forward_and_backward(loss: Callable[[], Any], z_ND: Any) -> Numbers:
    """Seconds of both together, by the clock and of all cores' work, and the peak of memory so far."""
    z_ND.grad = None
    start = time.process_time()
    seconds = seconds_of(lambda: loss().backward())
    return {"seconds": seconds, "core_seconds": time.process_time() - start, "peak_bytes": peak_bytes()}
