"""The processes of a training run: one, or several started by torchrun.

torchrun starts one per GPU (or per share of a CPU).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from geomap.encode.engine import pick_device


@dataclass(frozen=True, slots=True)
class Group:
    """One process: its number, the number of processes, and its device."""

    rank: int
    size: int
    device: torch.device

    @property
    def first(self) -> bool:
        """Whether this is the process that measures, writes and reports."""
        return self.rank == 0

    def wait(self) -> None:
        """Wait until every process has reached this point."""
        if self.size > 1:
            dist.barrier()

    def mean(self, value: Tensor) -> Tensor:
        """The mean of a tensor over the processes."""
        if self.size > 1:
            dist.all_reduce(value)
        return value / self.size


@contextmanager
def processes(device: str) -> Iterator[Group]:
    """The group given by torchrun's RANK, LOCAL_RANK and WORLD_SIZE in the environment, or a single process.

    Gradients travel by NCCL between GPUs, by gloo between CPU processes. Raises InputError for a missing device.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield Group(0, 1, pick_device(device))
        return
    cuda = pick_device(device).type == "cuda"
    own = pick_device(f"cuda:{os.environ['LOCAL_RANK']}" if cuda else "cpu")
    if cuda:
        torch.cuda.set_device(own)
    dist.init_process_group("nccl" if cuda else "gloo")
    try:
        yield Group(dist.get_rank(), size, own)
    finally:
        dist.destroy_process_group()
