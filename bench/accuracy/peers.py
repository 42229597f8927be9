"""What other people's sizing rules say of the same rows, applied as their users would.

Each rule gives one figure and no upper bound, so the figure stands for both. None of them knows batch, length, loss or activations.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final

from accuracy.rows import Row
from finetune_operator.api.compatibility import Strategy
from finetune_operator.api.plan import GIB
from finetune_operator.memory.architecture import Architecture
from finetune_operator.memory.states import base_weight_bytes, trainable_parameters
from finetune_operator.memory.workload import Workload

Rule = Callable[[Row, Architecture, Workload], float]


def deepspeed_estimators(row: Row, architecture: Architecture, workload: Workload) -> float:
    """DeepSpeed 0.19.8: `estimate_zero2_model_states_mem_needs` and `estimate_zero3_model_states_mem_needs`, GPU bytes.

    deepspeed/runtime/zero/stage_1_and_2.py: 2P + 18P/N, with the optimizer offloaded 2P; stage3.py: 4 × largest layer + 18P/N, with the
    optimizer offloaded 2P/N, with the parameters too none. P counts every parameter, frozen or not: the functions take the model
    (`*_all_live`). FSDP is read as stage 3, everything else as stage 2; one GPU is stage 2 with N = 1, as its users call it.
    """
    parameters, processes = architecture.parameters, max(workload.processes, 1)
    offload = row.text("cpu_offload").lower()
    if workload.strategy in (Strategy.FSDP, Strategy.ZERO3):
        largest = max(architecture.layer_parameters, architecture.vocabulary * architecture.hidden)
        per_parameter = 0 if "param" in offload else 2 if "optim" in offload else 18
        return (4 * largest + per_parameter * parameters / processes) / GIB
    return (2 * parameters + (0 if "optim" in offload else 18 * parameters / processes)) / GIB


def accelerate_estimate_memory(row: Row, architecture: Architecture, workload: Workload) -> float:
    """Accelerate 1.15: `accelerate estimate-memory` prints 4 × the weights for training with Adam, in the type that the user names.

    accelerate/commands/estimate.py, `estimate_training_usage`: 16 bytes per parameter of float32, 8 of bfloat16. It knows neither adapters
    nor sharding. With adapters the named type is that of the base; of 4-bit types the command prints no training figure, so the same factor
    is applied to the weights that it prints for them.
    """
    if workload.trains_base:
        return _dense(architecture, workload)
    return 4 * base_weight_bytes(architecture, workload) / GIB


def _dense(architecture: Architecture, workload: Workload) -> float:
    return 4 * architecture.parameters * workload.numerics.trained / GIB


def sixteen_bytes(row: Row, architecture: Architecture, workload: Workload) -> float:
    """16 bytes per trained parameter (ZeRO paper, arXiv 1910.02054, §3.1) over the GPUs that shard them, and the frozen base as it is stored."""
    trained = 16 * trainable_parameters(architecture, workload)
    if workload.trains_base:
        return trained / max(workload.shards, 1) / GIB
    base = base_weight_bytes(architecture, workload)
    spread = workload.shards if workload.strategy in (Strategy.FSDP, Strategy.ZERO3) else 1
    return (base / max(spread, 1) + trained) / GIB


PEERS: Final[Mapping[str, Rule]] = MappingProxyType(
    {
        "deepspeed": deepspeed_estimators,
        "accelerate": accelerate_estimate_memory,
        "sixteen_bytes": sixteen_bytes,
    }
)
