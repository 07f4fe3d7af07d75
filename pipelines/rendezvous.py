"""Where the workers of a training find each other: on loopback where one machine has them all.

Torch's own meeting place, the TCPStore, listens on all addresses and asks nobody for a password; gloo listens on the
address that the machine's name stands for. Workers on several machines meet as Ray Train has it.
"""

from __future__ import annotations

import os
import socket
from typing import Any

import psutil
import torch.distributed as dist
from ray.train.torch import TorchConfig

LOOPBACK = "127.0.0.1"
INTERFACES = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")

_listening: socket.socket | None = None  # of rank 0, from the call that opens it to the one that hands it to torch


class Rendezvous(TorchConfig):  # type: ignore[misc]
    """``torch_config`` of ``ray.train.torch.TorchTrainer``."""

    @property
    def backend_cls(self) -> type[Any]:
        return _Backend


class _Backend(TorchConfig().backend_cls):  # type: ignore[misc]
    """Ray runs it whenever a group of workers has started: at the beginning, and after one was lost."""

    def on_start(self, worker_group: Any, backend_config: TorchConfig) -> None:
        import ray

        if len(set(worker_group.execute(_node))) > 1:
            super().on_start(worker_group, backend_config)
            return
        port = worker_group.execute_single(0, listen)
        size = len(worker_group)
        ray.get([worker_group.execute_single_async(rank, _join, port, rank, size) for rank in range(size)])


def listen() -> int:
    """Open rank 0's socket; its port."""
    global _listening
    _listening = socket.create_server((LOOPBACK, 0))
    return int(_listening.getsockname()[1])


def join(backend: str, port: int, rank: int, size: int) -> None:
    """Make this process rank ``rank`` of ``size`` in the default process group; rank 0 has called ``listen``."""
    global _listening
    for name in INTERFACES:
        os.environ.setdefault(name, _loopback_interface())
    taken = _listening.detach() if rank == 0 and _listening else None
    _listening = None
    store = dist.TCPStore(  # type: ignore[attr-defined]
        LOOPBACK, port, size, is_master=rank == 0, wait_for_workers=False, master_listen_fd=taken
    )
    dist.init_process_group(backend, store=store, rank=rank, world_size=size)


def _join(port: int, rank: int, size: int) -> None:
    from ray.train.torch import get_device

    join("nccl" if get_device().type == "cuda" else "gloo", port, rank, size)


def _node() -> str:
    import ray

    return str(ray.get_runtime_context().get_node_id())


def _loopback_interface() -> str:
    """Its name here: lo, or lo0."""
    found = psutil.net_if_addrs().items()
    return next(name for name, addresses in found if any(one.address == LOOPBACK for one in addresses))
