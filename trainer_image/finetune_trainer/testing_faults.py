"""Probes that do to a rank what machines do: they let it hang, explode, run out of disk, lose its clock (testing_probes.py knows them by name)."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import torch
from transformers import TrainerCallback

from finetune_trainer.testing_disk import mount_small_disk


class Stuck(TrainerCallback):
    """`stuck:<rank>:<step>`: one rank never begins the step after this one."""

    def __init__(self, rank: int, target: str, step: str) -> None:
        self._is_target = rank == int(target)
        self._step = int(step)

    def on_step_begin(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        """Wait for what never comes."""
        if self._is_target and state.global_step == self._step:
            self.wait_for_what_never_comes()

    def wait_for_what_never_comes(self) -> None:
        """Do it under a name that a test looks for in the stacks."""
        threading.Event().wait()


class Slow(TrainerCallback):
    """`slow:<rank>:<seconds>`: one rank takes longer for the forward pass of its first layer."""

    def __init__(self, rank: int, target: str, seconds: str) -> None:
        self._is_target, self._seconds = rank == int(target), float(seconds)

    def on_init_end(self, args: Any, state: Any, control: Any, model: Any = None, **others: Any) -> None:
        """Slow the layer down from inside: the attention of the first one."""
        if self._is_target:
            module = next(module for name, module in model.named_modules() if name.endswith("self_attn"))
            module.register_forward_pre_hook(lambda module, arguments: time.sleep(self._seconds))


class Explode(TrainerCallback):
    """`explode:<step>`: makes the trained weights a hundred times as large after a step, before its checkpoint is written."""

    def __init__(self, rank: int, step: str) -> None:
        self._step = int(step)

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **others: Any) -> None:
        """Spoil every trained weight."""
        if state.global_step == self._step:
            with torch.no_grad():
                for parameter in model.parameters():
                    if parameter.requires_grad:
                        parameter.mul_(100)


class SmallDisk(TrainerCallback):
    """`disk:<bytes>:<step>`: checkpoints are staged on a disk of so many bytes, of which something else takes the rest after a step."""

    def __init__(self, rank: int, size: str, step: str) -> None:
        self._folder, self._step = Path(os.environ["FINETUNE_WORK_DIRECTORY"]) / "staging", int(step)
        mount_small_disk(self._folder, int(size))

    def on_step_begin(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        """Fill it to the last byte."""
        if state.global_step != self._step:
            return
        with contextlib.suppress(OSError), (self._folder / "something-else").open("wb", buffering=0) as file:
            while file.write(bytes(4096)):
                pass


class ClockJump(TrainerCallback):
    """`clock:<step>:<seconds>`: the wall clock jumps after a step, forwards or backwards."""

    def __init__(self, rank: int, step: str, seconds: str) -> None:
        self._step, self._seconds = int(step), float(seconds)

    def on_step_end(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        """Let it jump, for this process alone."""
        if state.global_step == self._step:
            before = time.time
            time.time = lambda: before() + self._seconds


FAULTS: Final[dict[str, Callable[..., TrainerCallback]]] = {
    "stuck": Stuck,
    "slow": Slow,
    "explode": Explode,
    "disk": SmallDisk,
    "clock": ClockJump,
}
