"""Every run proves that it is sharded the way it was planned: accelerate gives plain DDP without a word when it dislikes a setting."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from finetune_operator.api.compatibility import ZERO_STAGES, Offload, Strategy
from finetune_operator.api.exit_codes import ExitCode
from finetune_trainer.failures import TrainerFailure

_WHERE: Final = {
    Offload.NONE: "",
    Offload.OPTIMIZER: " in host memory",
    Offload.PARAMETERS: " in host memory",
    Offload.NVME: " on local disk",
}


def check_wrapping(
    strategy: Strategy, model: Any, optimizer: Any, world_size: int, offload: Offload = Offload.NONE
) -> str:
    """Return a sentence on what is sharded how, and what is offloaded.

    Raises:
        TrainerFailure: The model is wrapped in something else, or a rank holds as much as all of them together.
    """
    if strategy is Strategy.FSDP:
        return _check_fsdp(model, world_size, offload)
    if strategy in ZERO_STAGES:
        return _check_zero(strategy, model, world_size, offload)
    from torch.nn.parallel import DistributedDataParallel

    is_ddp = isinstance(model, DistributedDataParallel)
    if strategy is Strategy.DDP and world_size > 1:
        if not is_ddp:
            raise _wrong("ddp", f"the model is a {type(model).__name__}, not DistributedDataParallel")
        _refuse_sharded(strategy, model.parameters())
        return f"ddp: {world_size} ranks with whole copies of {_count(model.parameters())} parameters"
    if is_ddp or (world_size > 1 and strategy is Strategy.SINGLE):
        raise _wrong(strategy, f"there are {world_size} ranks and the model is a {type(model).__name__}")
    _refuse_sharded(strategy, model.parameters())
    return f"{strategy}: one process with {_count(model.parameters())} parameters"


def _check_fsdp(model: Any, world_size: int, offload: Offload) -> str:
    from torch.distributed.fsdp import FSDPModule

    is_fsdp = isinstance(model, FSDPModule)
    if not is_fsdp:
        raise _wrong("fsdp", f"the model is a {type(model).__name__}, not an FSDP2 module")
    whole = local = 0
    copies = []
    for name, parameter in model.named_parameters():
        whole += parameter.numel()
        if not _is_sharded(parameter):
            copies.append(name)
        local += parameter.to_local().numel() if _is_sharded(parameter) else parameter.numel()
    if copies:
        raise _wrong("fsdp", f"{len(copies)} parameters are whole on every rank, such as {copies[0]}")
    # A parameter whose first dimension does not divide leaves some ranks a row more.
    if world_size > 1 and local > 0.75 * whole:
        raise _wrong("fsdp", f"this rank holds {local} of {whole} parameters")
    on_host = next(model.parameters()).device.type == "cpu"
    if offload is Offload.PARAMETERS and not on_host:
        raise _wrong("fsdp", "its parameters are on the GPU although they are to be offloaded")
    return f"fsdp: this rank holds {local} of {whole} parameters{' in host memory' if on_host else ''}"


def _check_zero(strategy: Strategy, model: Any, world_size: int, offload: Offload) -> str:
    from deepspeed import DeepSpeedEngine

    if not isinstance(model, DeepSpeedEngine):
        raise _wrong(strategy, f"the model is a {type(model).__name__}, not a DeepSpeedEngine")
    stage = model.zero_optimization_stage()
    if stage != ZERO_STAGES[strategy]:
        raise _wrong(strategy, f"DeepSpeed runs ZeRO stage {stage}")
    found = _zero_offload(model)
    if found is not offload:
        raise _wrong(strategy, f"DeepSpeed offloads {found} instead of {offload}")
    parameters = list(model.module.parameters())
    is_sharded = strategy is Strategy.ZERO3
    trained = sum(_whole_size(parameter) for parameter in parameters if parameter.requires_grad)
    optimizer = model.optimizer
    states = _optimizer_elements(optimizer, is_sharded=is_sharded)
    if world_size > 1 and states > 0.75 * trained:
        raise _wrong(strategy, f"this rank holds optimizer states of {states} of {trained} trained parameters")
    where = _WHERE[offload]
    if offload is Offload.NVME:
        where = f", {swapped_elements(optimizer)} of them{where}"
    said = f"{strategy}: this rank holds optimizer states of {states} of {trained} trained parameters{where}"
    if not is_sharded:
        return said
    if copies := [name for name, parameter in model.module.named_parameters() if not hasattr(parameter, "ds_tensor")]:
        raise _wrong(strategy, f"{len(copies)} parameters are whole on every rank, such as {copies[0]}")
    whole = sum(_whole_size(parameter) for parameter in parameters)
    local = sum(parameter.ds_tensor.numel() for parameter in parameters)
    if world_size > 1 and local > 0.75 * whole:
        raise _wrong(strategy, f"this rank holds {local} of {whole} parameters")
    return f"{said} and {local} of {whole} parameters"


def _optimizer_elements(optimizer: Any, *, is_sharded: bool) -> int:
    """Elements whose master and moments this rank steps; those on local disk are empty in memory."""
    if is_sharded:
        return int(sum(optimizer.fp16_partitioned_groups_flat_numel))
    return sum(partition.numel() for partition in optimizer.single_partition_of_fp32_groups)


def swapped_elements(optimizer: Any) -> int:
    """Return how many of them are on local disk: all but parts below 1 MiB (DeepSpeed 0.19.8, MIN_AIO_BYTES)."""
    sizes = enumerate(optimizer.fp16_partitioned_groups_flat_numel)
    return sum(int(size) for number, size in sizes if optimizer._swappable_optimizer_subgroup(number))


def _zero_offload(engine: Any) -> Offload:
    parameters, optimizer = engine.zero_offload_param(), engine.zero_offload_optimizer()
    if getattr(engine.optimizer, "swap_optimizer", False):
        return Offload.NVME
    if parameters is not None and parameters.device != "none":
        return Offload.PARAMETERS
    return Offload.OPTIMIZER if optimizer is not None and optimizer.device != "none" else Offload.NONE


def _whole_size(parameter: Any) -> int:
    """Elements of a parameter, which ZeRO-3 replaces by an empty one."""
    return int(getattr(parameter, "ds_numel", parameter.numel()))


def _refuse_sharded(strategy: Strategy, parameters: Iterable[Any]) -> None:
    if any(_is_sharded(parameter) for parameter in parameters):
        raise _wrong(strategy, "parameters are sharded")


def _is_sharded(parameter: Any) -> bool:
    from torch.distributed.tensor import DTensor

    return isinstance(parameter, DTensor)


def _count(parameters: Iterable[Any]) -> int:
    return sum(parameter.numel() for parameter in parameters)


def _wrong(strategy: str, what: str) -> TrainerFailure:
    return TrainerFailure(
        ExitCode.BUG,
        f"the plan says strategy {strategy}, but {what}; the run is stopped because it would need other memory than planned",
    )
