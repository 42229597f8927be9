"""In which order an epoch takes its sequences: decided by seed and epoch alone, whatever number of processes shares them.

accelerate 1.15 fills up the last batch of an epoch or not, depending on how a step is split, so that another split trains on other batches there.
Else the order is that of its SeedableRandomSampler, and so that of a plain TRL script.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import cycle, islice
from typing import Any, Final

import torch
from transformers import TrainerCallback

BATCHES_GROUPED: Final = 50
"""Rows are sorted by length within so many global batches (as many as transformers' LengthGroupedSampler takes): more would save little padding, and
neighbours in a batch would be the same in every epoch."""


class EpochOrder(torch.utils.data.Sampler[int]):
    """The numbers of the sequences of an epoch; a last global batch that is not full is filled with the epoch's first ones.

    With `lengths` (of the sequences, in tokens) those of about one length share batches.
    """

    def __init__(self, sequences: int, global_batch: int, seed: int, lengths: Sequence[int] | None = None) -> None:
        self._sequences = sequences
        self._global_batch = global_batch
        self._lengths = lengths
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
        if self._lengths is not None:
            order = self._grouped(order, self._lengths, generator)
        return islice(cycle(order), self._length)

    def _grouped(self, order: list[int], lengths: Sequence[int], generator: torch.Generator) -> list[int]:
        """Return the sequences in batches of about one length, the batches in random order; one that is not full stays the last."""
        size, window = self._global_batch, BATCHES_GROUPED * self._global_batch
        grouped: list[int] = []
        for first in range(0, len(order), window):
            rows = sorted(order[first : first + window], key=lambda row: -lengths[row])
            batches = [rows[start : start + size] for start in range(0, len(rows), size)]
            full = [batch for batch in batches if len(batch) == size]
            mixed = [full[index] for index in torch.randperm(len(full), generator=generator).tolist()]
            grouped += (row for batch in (*mixed, *batches[len(full) :]) for row in batch)
        return grouped


class EpochBeginnings(TrainerCallback):
    """Tells the order which epoch begins, or goes on after a resume."""

    def __init__(self, order: EpochOrder) -> None:
        self._order = order

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        """Count epochs by steps: every epoch has equally many."""
        self._order.begin(state.global_step)
