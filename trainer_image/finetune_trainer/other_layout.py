"""Checkpoints in another layout than this run's: whole states (one process, DDP), FSDP2's shards, and ZeRO's of another number of processes.

Which way between them exists is told by `resume_obstacle` (api/compatibility.py). torch's distributed checkpoints are read by name into whatever
holds the names now; DeepSpeed's shards are first made a universal checkpoint (deepspeed/checkpoint/ds_to_universal.py).
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path
from typing import Any, Final

import torch
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.checkpoint.state_dict_loader import load

from finetune_operator.api.compatibility import ZERO_STAGES
from finetune_operator.api.exit_codes import ExitCode
from finetune_operator.api.manifest import Manifest
from finetune_operator.api.plan import Plan
from finetune_trainer.attempt import Place
from finetune_trainer.collective import Collective
from finetune_trainer.failures import TrainerFailure

MODEL_SHARDS: Final = "pytorch_model_fsdp_0"
OPTIMIZER_SHARDS: Final = "optimizer_0"
"""Folders that accelerate 1.15 writes with SHARDED_STATE_DICT (save_fsdp_model, save_fsdp_optimizer)."""
UNIVERSAL: Final = "universal"


def is_sharded(checkpoint: Path) -> bool:
    """Whether FSDP2 wrote the checkpoint."""
    return (checkpoint / MODEL_SHARDS).is_dir()


def load_model_shards(model: Any, checkpoint: Path) -> None:
    """Load FSDP2's shards into a whole model."""
    state = _trained_state(model)
    load({"model": state}, checkpoint_id=checkpoint / MODEL_SHARDS, no_dist=True)
    _set_trained_state(model, state)


def load_optimizer_shards(model: Any, optimizer: Any, checkpoint: Path) -> None:
    """Load FSDP2's shards into a whole model's optimizer."""
    state = get_optimizer_state_dict(model, optimizer)
    load({"optimizer": state}, checkpoint_id=checkpoint / OPTIMIZER_SHARDS, no_dist=True)
    set_optimizer_state_dict(model, optimizer, state)


def load_saved_model(model: Any, checkpoint: Path) -> None:
    """Load into a whole model what `save_pretrained` wrote of one."""
    model.load_state_dict(_saved_state(type(model), model, checkpoint))


def _saved_state(kind: type[Any], model: Any, checkpoint: Path) -> dict[str, torch.Tensor]:
    """Return the weights that `save_pretrained` wrote of such a model, by the names that a model of this class has in memory.

    transformers 5.23 saves some weights under other names than they have in memory (each expert's own matrices, as on the hub), and its Trainer's
    own resume looks for those in memory and passes over what it does not find: a Mixtral went on with the experts it had started from.
    """
    # The widest type of all: beside trained weights in float32 frozen ones may be in bfloat16.
    widest = max((parameter.dtype for parameter in model.parameters()), key=lambda dtype: dtype.itemsize)
    saved, found = kind.from_pretrained(checkpoint, dtype=widest, output_loading_info=True)
    wrong = sorted({*found["missing_keys"], *(name for name, *_ in found["mismatched_keys"])})
    if wrong:
        raise TrainerFailure(
            ExitCode.BUG,
            f"{len(wrong)} weights of the model are not in its checkpoint, or not in their shape, such as {wrong[0]}",
        )
    state: dict[str, torch.Tensor] = saved.state_dict()
    return state


def load_whole_model(model: Any, checkpoint: Path) -> None:
    """Load whole weights into an FSDP2 model: every rank reads them and keeps its shard."""
    from torch.distributed.tensor import distribute_tensor

    whole = _whole_weights(model, checkpoint)
    state = _trained_state(model)
    missing = sorted(state.keys() - whole.keys())
    if missing:
        raise TrainerFailure(
            ExitCode.BAD_SPEC,
            f"the checkpoint of one process or DDP names {len(missing)} weights otherwise than FSDP2, such as {missing[0]}; set resources back, "
            "or start a new job",
        )
    with torch.no_grad():
        for name, shard in state.items():
            value = whole[name].to(shard.dtype)
            shard.copy_(distribute_tensor(value, shard.device_mesh, shard.placements, src_data_rank=None))
    _set_trained_state(model, state)


def load_whole_optimizer(model: Any, optimizer: Any, checkpoint: Path) -> None:
    """Load the states of a whole model's optimizer, which are numbered, into an FSDP2 model's, which have names."""
    saved = torch.load(checkpoint / "optimizer.pt", map_location="cpu", weights_only=True, mmap=True)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    groups = []
    states = {}
    for group, old in zip(optimizer.param_groups, saved["param_groups"], strict=True):
        called = [names[id(parameter)] for parameter in group["params"]]
        groups.append({**old, "params": called})
        for name, number in zip(called, old["params"], strict=True):
            states[name] = saved["state"][number]
    options = StateDictOptions(full_state_dict=True)
    set_optimizer_state_dict(model, optimizer, {"state": states, "param_groups": groups}, options=options)


def load_zero_of_others(
    resumed: Manifest | None, plan: Plan, place: Place, collective: Collective, checkpoint: Path, settings: Any
) -> None:
    """Have DeepSpeed load the shards of another number of processes or another stage, if it is that which is resumed. Collective.

    `settings` are transformers' training arguments, before DeepSpeed reads them.
    """
    if resumed is None or plan.strategy not in ZERO_STAGES:
        return
    if (resumed.world_size, resumed.strategy) == (plan.processes, plan.strategy):
        return
    if place.is_first_of_pod:
        _make_universal(checkpoint)
    collective.barrier()
    settings.hf_deepspeed_config.config["checkpoint"]["load_universal"] = True


def _make_universal(checkpoint: Path) -> None:
    """Put in the shards' place what any number of processes can load."""
    from deepspeed.checkpoint.ds_to_universal import main

    tag = (checkpoint / "latest").read_text().strip()
    arguments = argparse.Namespace(
        input_folder=str(checkpoint / tag),
        output_folder=str(checkpoint / f"{tag}_{UNIVERSAL}"),
        num_extract_workers=1,
        num_merge_workers=1,
        keep_temp_folder=False,
        strict=True,
        inject_missing_state=True,  # DeepSpeed writes no universal_checkpoint_info for models that are not Megatron's
    )
    main(arguments)
    (checkpoint / "latest_universal").write_text(f"{tag}_{UNIVERSAL}")
    shutil.rmtree(checkpoint / tag)


def _trained_state(model: Any) -> dict[str, Any]:
    """Return what checkpoints have of a model, by their names: adapters alone where there are any."""
    from peft import PeftModel, get_peft_model_state_dict

    found: dict[str, Any] = (
        get_peft_model_state_dict(model, adapter_name=model.active_adapter)
        if isinstance(model, PeftModel)
        else model.state_dict()
    )
    return found


def _set_trained_state(model: Any, state: dict[str, Any]) -> None:
    from peft import PeftModel, set_peft_model_state_dict

    if isinstance(model, PeftModel):
        set_peft_model_state_dict(model, state, adapter_name=model.active_adapter)
    else:
        model.load_state_dict(state)


def _whole_weights(model: Any, checkpoint: Path) -> dict[str, torch.Tensor]:
    from peft import PeftModel
    from torch.distributed.fsdp import FSDPModule

    if not isinstance(model, PeftModel):
        # FSDP2 makes its units instances of a class of its own, which is derived from FSDPModule and the model's.
        own = next(kind for kind in type(model).__mro__ if not issubclass(kind, FSDPModule))
        return _saved_state(own, model, checkpoint)
    from safetensors.torch import load_file

    found: dict[str, torch.Tensor] = {}
    for path in sorted(checkpoint.glob("*.safetensors")):
        found |= load_file(path)
    return found
