"""TRL's DPOTrainer, KTOTrainer and RewardTrainer as one rank of a job."""

from __future__ import annotations

import copy
from typing import Any

from trl import DPOTrainer, KTOTrainer, RewardTrainer
from trl.trainer.utils import disable_dropout_in_model

from finetune_trainer.job_context import JobContext
from finetune_trainer.job_trainer import JobTraining
from finetune_trainer.objectives.reference import ReferenceTraining


class PreferenceTrainer(ReferenceTraining, DPOTrainer):
    """One rank's trainer of objective dpo."""

    reference_names = ("ref_chosen_logps", "ref_rejected_logps")


def without_dropout(model: Any) -> Any:
    """Return the model with its own dropout off: it would make every answer of the reference another one."""
    disable_dropout_in_model(model)
    return model


def frozen_copy(model: Any) -> Any:
    """Return the model as it is before training, in the same precision; TRL never trains it."""
    return copy.deepcopy(model)


class RewardModelTrainer(JobTraining, RewardTrainer):
    """One rank's trainer of objective reward."""

    def _prepare_dataset(self, dataset: Any, *_: Any) -> Any:
        return dataset


class JudgedTrainer(JobTraining, KTOTrainer):
    """One rank's trainer of objective kto."""

    def __init__(self, context: JobContext, **arguments: Any) -> None:
        super().__init__(context, **arguments)
        self.data_collator: Any = _Mismatching(self.data_collator)

    def _prepare_dataset(self, dataset: Any, *_: Any) -> Any:
        return dataset


class _Mismatching:
    """Gives each row of a micro-batch the answer of the one before it as well: how far the model is from the reference is measured on such pairs.

    TRL does it once for the whole data set, and reads it in order for that; here epochs are shuffled (epoch_order.py).
    """

    def __init__(self, collator: Any) -> None:
        self._collator = collator

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        before = [rows[-1], *rows[:-1]]
        mixed = [{**row, "KL_completion_ids": other["completion_ids"]} for row, other in zip(rows, before, strict=True)]
        batch: dict[str, Any] = self._collator(mixed)
        return batch
