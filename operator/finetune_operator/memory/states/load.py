"""Weights while a model is being loaded, before its states exist: on the GPU and on the host."""

from __future__ import annotations

from typing import Final

from finetune_operator.api.compatibility import Strategy
from finetune_operator.memory.architecture import Architecture
from finetune_operator.memory.kinds import Quantization
from finetune_operator.memory.states.quantization import base_weight_bytes
from finetune_operator.memory.states.sharding import Whole, share
from finetune_operator.memory.workload import Workload

STORED_BUFFERS: Final = frozenset({"deepseek_v3", "glm4_moe"})
"""Types with buffers in their state dict, the corrections of expert scores, which accelerate 1.15 cannot send: every rank reads the model
(modeling.py of the trainer). A test compares them with transformers 5.23."""


def loaded_weights(whole: Whole, workload: Workload) -> int:
    """Return the bytes of weights that the process's own device holds when all of them have arrived (bytes).

    - One process and DDP: the whole model. ZeRO-1 and 2: the same in the compute type (deepspeed 0.19 casts before it moves the module).
    - FSDP and ZeRO-3 fill their shards from host memory; with `loads_whole` the quantised model is whole on every GPU first.
    - On the CPU the process's own memory is the host memory, and holds the whole model.
    """
    numerics = workload.numerics
    model = whole.frozen + numerics.trained * whole.parameters
    if workload.shards == 1 or workload.accelerator == "cpu" or workload.loads_whole:
        return model
    if workload.strategy in (Strategy.ZERO1, Strategy.ZERO2):
        return whole.frozen + min(numerics.compute, numerics.trained) * whole.parameters
    return share(model, workload.shards)


def host_load_bytes(architecture: Architecture, workload: Workload, processes: int = 1) -> int:
    """Return the host bytes that the `processes` of one pod need while they load the model.

    Every process reads the whole model on the host before it goes to the GPU or is sharded, as one float per weight in its type; quantised
    ones go to the GPU tensor by tensor, with the tensor as it was stored beside it. With `efficient_loading` (accelerate's
    cpu_ram_efficient_loading) only the first process of the pod reads weights; the others hold memory that nobody writes to. Every
    process reads the reward models while the model is still there.
    """
    sends = workload.efficient_loading and workload.strategy in (Strategy.FSDP, Strategy.ZERO3)
    readers = 1 if sends and architecture.model_type not in STORED_BUFFERS else processes
    judges = workload.numerics.compute * workload.reward_parameters
    return readers * _one_reader(architecture, workload) + processes * judges


def _one_reader(architecture: Architecture, workload: Workload) -> int:
    if workload.quantization is not Quantization.NONE and (
        workload.strategy is not Strategy.FSDP or workload.loads_whole
    ):
        return 2 * architecture.largest_tensor * workload.numerics.base
    if workload.trains_base:
        # A frozen copy of it (objective dpo) is made before both go to the GPU.
        copies = 2 if workload.keeps_reference else 1
        return copies * architecture.parameters * workload.numerics.trained
    return base_weight_bytes(architecture, workload)
