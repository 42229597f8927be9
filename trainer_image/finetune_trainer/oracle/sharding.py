"""FSDP2 over processes that do not exist: torch's fake process group, whose collectives return at once."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

from finetune_trainer.oracle.quantised_linear import TracedLinear4bit
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
    """Shard the model as the trainer's run does: by accelerate's own function, or into layers and one unit of all the rest."""
    for part in model.module.modules():
        if isinstance(part, TracedLinear4bit):
            part.store_as_parameter()
    policy = MixedPrecisionPolicy()
    if setting.autocasts:
        # What the trainer sets (job_trainer.py): bfloat16 to compute in, float32 gradients, outputs as they are.
        policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    if setting.splits_root:
        _shard_as_accelerate(setting, model, mesh, policy)
        return
    arguments: dict[str, Any] = {"mesh": mesh, "mp_policy": policy, "reshard_after_forward": setting.reshard}
    for layer in model.layers:
        fully_shard(layer, **arguments)
    fully_shard(model.module, **arguments)


def _shard_as_accelerate(
    setting: TraceSetting, model: TracedModel, mesh: DeviceMesh, policy: MixedPrecisionPolicy
) -> None:
    """Call accelerate's function (1.15, fsdp_utils.py), so that units are what the installed version makes of them.

    Every layer; an untied input embedding; the last norm and the head, never resharded after forward, with a tied embedding; then the rest. Of a
    PEFT model it does not find the last norm, which stays with the rest. It reads nothing of the accelerator but what stands here.
    """
    from accelerate.utils import FullyShardedDataParallelPlugin
    from accelerate.utils.fsdp_utils import fsdp2_prepare_model

    plugin = FullyShardedDataParallelPlugin(
        fsdp_version=2,
        reshard_after_forward=setting.reshard,
        auto_wrap_policy="transformer_based_wrap",
        cpu_ram_efficient_loading=False,
        mixed_precision_policy=policy,
    )
    accelerator = SimpleNamespace(
        state=SimpleNamespace(fsdp_plugin=plugin),
        torch_device_mesh={("shards",): mesh},
        parallelism_config=SimpleNamespace(fsdp_dim_names=("shards",)),
        mixed_precision="no",  # otherwise it widens trained weights, which have their type already
        is_main_process=False,
        device=mesh.device_type,
    )
    fsdp2_prepare_model(accelerator, model.module)
