"""FSDP2 over processes that do not exist: torch's fake process group, whose collectives return at once."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

from finetune_trainer.oracle.setting import TraceSetting
from finetune_trainer.oracle.traced_model import TracedModel


@contextlib.contextmanager
def fake_processes(setting: TraceSetting) -> Iterator[DeviceMesh | None]:
    """Be rank 0 of `setting.processes`; enter it outside the fake mode, whose tensors a mesh cannot be made of.

    Raises:
        RuntimeError: this process is in a process group already.
    """
    if setting.processes == 1:
        yield None
        return
    from torch.testing._internal.distributed.fake_pg import FakeStore

    dist.init_process_group("fake", rank=0, world_size=setting.processes, store=FakeStore())
    try:
        yield init_device_mesh("cpu", (setting.processes,))
    finally:
        dist.destroy_process_group()


def shard(setting: TraceSetting, model: TracedModel, mesh: DeviceMesh) -> None:
    """Shard every layer and then the rest (the root unit), as accelerate does for transformers' models."""
    policy = MixedPrecisionPolicy()
    if setting.autocasts:
        # What the trainer sets (job_trainer.py): bfloat16 to compute in, float32 gradients, outputs as they are.
        policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    arguments: dict[str, Any] = {"mesh": mesh, "mp_policy": policy, "reshard_after_forward": setting.reshard}
    for layer in model.layers:
        fully_shard(layer, **arguments)
    fully_shard(model.module, **arguments)
