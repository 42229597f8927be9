"""In which order prompts are answered: each one several times in a step, decided by seed and epoch alone like all orders (epoch_order.py)."""

from __future__ import annotations

from collections.abc import Iterator

from finetune_trainer.epoch_order import EpochOrder


class GroupOrder(EpochOrder):
    """The numbers of the prompts of an epoch as TRL's online trainers read them.

    A step answers `global_batch / generations` prompts, each `generations` times in a row. TRL reads all of them with the step's first
    micro-batch and reads as many again with every further one, which it drops (GRPOTrainer 1.16, get_train_dataloader): they are repeated.
    """

    def __init__(self, prompts: int, global_batch: int, generations: int, accumulation: int, seed: int) -> None:
        self._prompts = global_batch // generations
        super().__init__(prompts, self._prompts, seed)
        self._generations = generations
        self._accumulation = accumulation

    def __len__(self) -> int:
        return super().__len__() * self._generations * self._accumulation

    def __iter__(self) -> Iterator[int]:
        order = list(super().__iter__())
        for start in range(0, len(order), self._prompts):
            answered = [number for number in order[start : start + self._prompts] for _ in range(self._generations)]
            for _ in range(self._accumulation):
                yield from answered
