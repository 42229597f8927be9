"""The longest batch, tried before the first step: a GPU that is too small says so at once, and not hours later when that batch comes.

One whole step of it is run, with learning rate 0; afterwards optimizer state, gradients, random numbers and counters are as before, so that the
losses are those of a run that was not probed (tests/trainer/test_probe.py compares them bit for bit).
"""

from __future__ import annotations

import contextlib
import copy
import random
from collections.abc import Callable, Iterator
from typing import Any, Final

import numpy
import pyarrow.compute
import torch

from finetune_operator.api.plan import Phase
from finetune_trainer.swapped_states import forget_swapped_moments
from finetune_trainer.telemetry import Telemetry

_ENGINE_COUNTERS: Final = ("global_steps", "global_samples", "micro_steps", "skipped_steps")
"""What DeepSpeed's engine counts, and writes into its checkpoints."""
_TRAINER_COUNTERS: Final = ("_metrics", "_total_train_tokens", "_counts", "_step")
"""What TRL's trainers and ours (labelled_trainer.py) count in each batch, as far as a trainer has it."""


def longest_rows(dataset: Any, count: int, lengths_of: Callable[[Any], Any]) -> list[int]:
    """Return the indices of the longest rows, the longest first; rows are repeated where there are fewer than `count`.

    `lengths_of` gives the lengths of the rows of an Arrow table (`Recipe.lengths`).
    """
    table = dataset.data.table if hasattr(dataset.data, "table") else dataset.data
    lengths = lengths_of(table)
    order = pyarrow.compute.sort_indices(lengths, sort_keys=[("", "descending")]).to_pylist()[:count]
    return [order[index % len(order)] for index in range(count)]


def probe_longest_batch(trainer: Any, telemetry: Telemetry, *, has_optimizer_state: bool) -> int:
    """Run one step of the longest batch that changes nothing, and return its length in tokens. Collective.

    Args:
        trainer: A JobTraining whose model is wrapped and whose optimizer is prepared.
        telemetry: Hears in which phase the rank is.
        has_optimizer_state: A checkpoint was loaded. Then the optimizer is left alone: its state, which takes the memory, is there. With DeepSpeed,
            where backward pass and optimizer step cannot be told apart, nothing is run.

    Raises:
        torch.OutOfMemoryError: the plan is too large for this GPU.
    """
    engine = trainer.model_wrapped if trainer.is_deepspeed_enabled else None
    if engine is not None and has_optimizer_state:
        return 0
    batch, length = trainer.longest_batch()
    accumulation = trainer.args.gradient_accumulation_steps
    trainer.current_gradient_accumulation_steps = accumulation
    state = trainer.accelerator.gradient_state
    with _as_before(trainer, engine), _no_learning_rate(trainer.optimizer):
        telemetry.phase = Phase.GENERATION
        trainer.try_beside()
        telemetry.phase = Phase.BACKWARD
        items = trainer._get_num_items_in_batch([batch] * accumulation, trainer.args.device)
        for is_last in (
            (False, True) if accumulation > 1 else (True,)
        ):  # the second one meets the gradients of the first
            state._set_sync_gradients(is_last)
            trainer.training_step(trainer.model_wrapped, dict(batch), items)
        if engine is None:
            telemetry.phase = Phase.OPTIMIZER_STEP
            trainer.accelerator.clip_grad_norm_(trainer.model_wrapped.parameters(), trainer.args.max_grad_norm)
            if not has_optimizer_state:
                _torch_optimizer(trainer.optimizer).step()
        trainer.model_wrapped.zero_grad()
        if not has_optimizer_state:
            _torch_optimizer(trainer.optimizer).state.clear()
            forget_swapped_moments(engine)
    telemetry.phase = Phase.LOAD
    return int(length)


def _torch_optimizer(optimizer: Any) -> Any:
    """Accelerate and DeepSpeed each wrap torch's own."""
    while not isinstance(optimizer, torch.optim.Optimizer) or hasattr(optimizer, "optimizer"):
        optimizer = optimizer.optimizer
    return optimizer


@contextlib.contextmanager
def _no_learning_rate(optimizer: Any) -> Iterator[None]:
    groups = _torch_optimizer(optimizer).param_groups
    rates = [group["lr"] for group in groups]
    for group in groups:
        group["lr"] = 0.0
    try:
        yield
    finally:
        for group, rate in zip(groups, rates, strict=True):
            group["lr"] = rate


@contextlib.contextmanager
def _as_before(trainer: Any, engine: Any) -> Iterator[None]:
    """Restore random numbers and counters; not after an error, which ends the process."""
    python, arrays, tensors = random.getstate(), numpy.random.get_state(), torch.get_rng_state()
    devices = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    counted = {name: copy.deepcopy(getattr(trainer, name)) for name in _TRAINER_COUNTERS if hasattr(trainer, name)}
    counters = {name: getattr(engine, name) for name in _ENGINE_COUNTERS} if engine is not None else {}
    sync = trainer.accelerator.gradient_state.sync_gradients
    yield
    random.setstate(python)
    numpy.random.set_state(arrays)
    torch.set_rng_state(tensors)
    if devices:
        torch.cuda.set_rng_state_all(devices)
    for name, value in counted.items():
        setattr(trainer, name, value)
    for name, value in counters.items():
        setattr(engine, name, value)
    trainer.accelerator.gradient_state._set_sync_gradients(sync)
