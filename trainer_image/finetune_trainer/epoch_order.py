"""In which order an epoch takes its sequences: decided by seed and epoch alone, whatever number of processes shares them.

accelerate 1.15 fills up the last batch of an epoch or not, depending on how a step is split, so that another split trains on other batches there.
Else the order is that of its SeedableRandomSampler, and so that of a plain TRL script.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import cycle, islice
from typing import Any

import torch
from transformers import TrainerCallback


class EpochOrder(torch.utils.data.Sampler[int]):
    """The numbers of the sequences of an epoch; a last global batch that is not full is filled with the epoch's first ones."""

    def __init__(self, sequences: int, global_batch: int, seed: int) -> None:
        self._sequences = sequences
        self._seed = seed
        self._steps = -(-sequences // global_batch)
        self._length = self._steps * global_batch
        self._epoch = 0

    def begin(self, step: int) -> None:
        """Set the epoch of which the step after `step` is a part. accelerate counts epochs itself, and would call a `set_epoch`."""
        self._epoch = step // self._steps

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator()
        generator.manual_seed(self._seed + self._epoch)
        order = torch.randperm(self._sequences, generator=generator).tolist()
        return islice(cycle(order), self._length)


class EpochBeginnings(TrainerCallback):
    """Tells the order which epoch begins, or goes on after a resume."""

    def __init__(self, order: EpochOrder) -> None:
        self._order = order

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        """Count epochs by steps: every epoch has equally many."""
        self._order.begin(state.global_step)
