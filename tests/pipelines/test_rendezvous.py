"""Workers of one machine meet on loopback; under Ray: tests/e2e/test_serve_flows.py."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import psutil
import pytest
import ray
import torch
from torch import distributed as dist
from torch import multiprocessing

from pipelines import rendezvous

RANKS = 2


def run_rank(rank: int, ports: Any, sums: Any) -> None:
    os.environ.pop("GLOO_SOCKET_IFNAME", None)
    if rank == 0:
        ports.put(port := rendezvous.listen())
    else:
        port = ports.get()
    rendezvous.join("gloo", port, rank, RANKS)
    value = torch.tensor([1.0 + rank])
    dist.all_reduce(value)
    sums.put(float(value))
    sockets = psutil.Process().net_connections(kind="inet")
    assert {one.laddr.ip for one in sockets if one.status == psutil.CONN_LISTEN} == {rendezvous.LOOPBACK}
    dist.barrier()
    dist.destroy_process_group()


def test_workers_of_one_machine_meet_where_nobody_else_can_listen() -> None:
    context = multiprocessing.get_context("spawn")
    ports, sums = context.Queue(), context.Queue()
    multiprocessing.spawn(run_rank, args=(ports, sums), nprocs=RANKS)
    assert [sums.get(timeout=60) for _ in range(RANKS)] == [3.0] * RANKS


class Group:
    """Workers on these nodes; what they are asked to do is kept."""

    def __init__(self, *nodes: str) -> None:
        self.nodes, self.asked = nodes, []

    def __len__(self) -> int:
        return len(self.nodes)

    def execute(self, _: Callable[[], str]) -> list[str]:
        return list(self.nodes)

    def execute_single(self, rank: int, function: Callable[[], int]) -> int:
        assert (rank, function) == (0, rendezvous.listen)
        return 4711

    def execute_single_async(self, rank: int, function: Callable[..., None], *arguments: int) -> None:
        assert function is rendezvous._join
        self.asked.append((rank, arguments))


def test_every_worker_is_told_the_first_ones_port(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "get", list)
    group = Group("one", "one")
    config = rendezvous.Rendezvous()
    config.backend_cls().on_start(group, config)
    assert group.asked == [(0, (4711, 0, 2)), (1, (4711, 1, 2))]


def test_workers_of_several_machines_meet_as_ray_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    group, config = Group("one", "two", "one"), rendezvous.Rendezvous()
    handed = []
    monkeypatch.setattr(ray.train.torch.TorchConfig().backend_cls, "on_start", lambda _, *given: handed.append(given))
    config.backend_cls().on_start(group, config)
    assert handed == [(group, config)]
    assert group.asked == []
