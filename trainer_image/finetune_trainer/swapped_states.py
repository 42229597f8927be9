"""Optimizer states on local disk (`resources.offload: nvme`): into checkpoints and out of them.

DeepSpeed 0.19.8 copies the files that it swaps to into its checkpoints, by the rank in the pod, and reads no other optimizer state of such a
run: step counts, the states below 1 MiB, which stay in memory, and the very names of the swapped moments are lost (engine.py,
load_checkpoint). So DeepSpeed is told to save and load as without swapping, and the files are ours.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, Final

import torch

from finetune_operator.api.compatibility import Offload
from finetune_operator.api.exit_codes import ExitCode
from finetune_operator.api.plan import Plan
from finetune_trainer.attempt import Place
from finetune_trainer.disk_operator import check_space, prepare_disk
from finetune_trainer.failures import TrainerFailure

SWAPPED: Final = "swapped"
"""The folder of a checkpoint with each rank's files."""
_GRADIENTS: Final = "_gradient_"
"""Files of gradients (swap_tensor/optimizer_utils.py): at the end of a step they are used up."""


def prepare_swapping(plan: Plan, folder: Path, place: Place) -> None:
    """With offload to disk: try it, and have DeepSpeed's engines save and load ZeRO's own file and leave the files that states are swapped to alone.

    Raises:
        TrainerFailure: The disk or the operator for it cannot be used.
    """
    if plan.offload is not Offload.NVME:
        return
    from deepspeed import DeepSpeedEngine

    if not hasattr(DeepSpeedEngine, "zero_nvme_offload_optimizer"):
        raise TrainerFailure(
            ExitCode.BUG, "offload to NVMe needs DeepSpeedEngine.zero_nvme_offload_optimizer of DeepSpeed 0.19.8"
        )
    prepare_disk(folder, place.rank)
    if place.is_first_of_pod:
        shutil.rmtree(folder, ignore_errors=True)  # of a start before this one in the same pod
        check_space(folder, plan.trainable_parameters // plan.pods)
    DeepSpeedEngine.zero_nvme_offload_optimizer = lambda engine: False


def save_swapped(engine: Any, checkpoint: Path, rank: int) -> None:
    """Copy what this rank has swapped out into a checkpoint, at the end of a step; without offload to disk nothing."""
    swapper = _swapper(engine)
    if swapper is None:
        return
    target = checkpoint / SWAPPED / f"rank-{rank:05d}"
    target.mkdir(parents=True)
    for path in sorted(Path(swapper.swap_folder).iterdir()):
        if _GRADIENTS not in path.name:
            shutil.copyfile(path, target / path.name)


def load_swapped(engine: Any, checkpoint: Path | None, rank: int) -> None:
    """Take this rank's files out of the checkpoint that is resumed, after DeepSpeed has loaded the rest; without offload to disk nothing."""
    swapper = _swapper(engine)
    if swapper is None or checkpoint is None:
        return
    optimizer = engine.optimizer
    for path in (checkpoint / SWAPPED / f"rank-{rank:05d}").iterdir():
        shutil.move(path, Path(swapper.swap_folder) / path.name)
    for number, master in enumerate(optimizer.fp32_partitioned_groups_flat):
        if optimizer._swappable_optimizer_subgroup(number):
            _announce(swapper, optimizer.optimizer, master)
    optimizer.reset_swap_buffers()


def forget_swapped_moments(engine: Any) -> None:
    """Have the swapper forget the moments of a trial; else it swaps those, and the ones of the training stay in memory."""
    swapper = _swapper(engine)
    if swapper is not None:
        swapper.purge_state()


def _swapper(engine: Any) -> Any:
    """The part of ZeRO-3's optimizer that swaps; None where nothing is swapped, and of what is no engine."""
    return getattr(getattr(engine, "optimizer", None), "optimizer_swapper", None)


def _announce(swapper: Any, optimizer: Any, master: Any) -> None:
    """Say under which names moments are on disk: the swapper learns it only from moments that it finds in memory."""
    states = optimizer.state[master].items()
    moments: dict[str, Any] = {name: value for name, value in states if torch.is_tensor(value) and not value.numel()}
    for name, moment in moments.items():
        moment.ds_id = f"{name}-{master.ds_id}"
    found = swapper.swap_params_info[master.ds_id]
    found.add_state_tensors(list(moments.values()))
    missing = [path for path in found.get_swap_paths() if not Path(path).is_file()]
    if missing or not moments:
        raise TrainerFailure(ExitCode.BUG, f"the checkpoint lacks swapped states of {master.ds_id}: {missing}")
