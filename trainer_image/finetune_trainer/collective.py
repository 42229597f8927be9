"""What ranks say to one another outside the training step; a run of one process talks to itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

_T = TypeVar("_T")


class Collective:
    """Collective calls: every rank must make the same ones in the same order."""

    def __init__(self, world_size: int) -> None:
        self._world_size = world_size

    def gather(self, value: _T) -> list[_T]:
        """Return every rank's value, in the order of ranks, on every rank."""
        if self._world_size == 1:
            return [value]
        import torch.distributed as dist

        values: list[Any] = [None] * self._world_size
        dist.all_gather_object(values, value)
        return values

    def broadcast(self, value: _T) -> _T:
        """Return rank 0's value on every rank."""
        if self._world_size == 1:
            return value
        import torch.distributed as dist

        values = [value]
        dist.broadcast_object_list(values, src=0)
        return values[0]

    def maxima(self, values: Sequence[int], device: Any) -> list[int]:
        """Return the highest of every rank's numbers, place by place: one small all_reduce (1-7 ms on gloo)."""
        if self._world_size == 1:
            return list(values)
        import torch
        import torch.distributed as dist

        tensor = torch.tensor(list(values), device=device)
        dist.all_reduce(tensor, op=dist.ReduceOp.MAX)
        return [int(value) for value in tensor.tolist()]

    def barrier(self) -> None:
        """Wait for every rank."""
        if self._world_size > 1:
            self.gather(None)
