"""The models that an inspection asks about rows, for each data set by its filters, and what they have decided."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

from finetune_operator.api.constants import JUDGE_KEY_VARIABLE
from finetune_operator.api.exit_codes import ExitCode
from finetune_operator.api.inputs import Filters
from finetune_operator.api.inspection import InputFile
from finetune_operator.api.row_models import SemanticDuplicates
from finetune_trainer.after_training.judge import JudgeClient
from finetune_trainer.failures import TrainerFailure
from finetune_trainer.inspect.row_scores import RowScores, ScoreCache
from finetune_trainer.row_decisions import Decisions, RowModels, write_decisions
from finetune_trainer.rows import RowValue
from finetune_trainer.storage import ObjectStorage


class OneAfterAnother:
    """Asks each about the rows that the one before it leaves in."""

    def __init__(self, models: Sequence[RowModels]) -> None:
        self._models = models

    def reasons(self, values: Sequence[RowValue]) -> list[str | None]:
        """Return the first reason why each row is left out, None for one that stays."""
        reasons: list[str | None] = [None] * len(values)
        for model in self._models:
            staying = [index for index, reason in enumerate(reasons) if reason is None]
            if not staying:
                break
            for index, reason in zip(staying, model.reasons([values[index] for index in staying]), strict=True):
                reasons[index] = reason
        return reasons


class JobRowModels:
    """Those of a job; a context manager, since a judge has connections and an embedding model files."""

    def __init__(self, target: ObjectStorage) -> None:
        self._target = target
        self._open = ExitStack()
        self._decisions: dict[str, Decisions] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.close()

    def of(self, filters: Filters) -> RowModels | None:
        """Return what is asked about the rows of one file of rows, None where nothing is."""
        models: list[RowModels] = []
        if filters.semantic is not None:
            models.append(self._meanings(filters.semantic))
        if filters.judge is not None:
            client = self._open.enter_context(JudgeClient(filters.judge, os.environ.get(JUDGE_KEY_VARIABLE)))
            models.append(RowScores(filters.judge, client, ScoreCache(self._target, filters.judge)))
        return OneAfterAnother(models) if models else None

    def note(self, key: str, filters: Filters, decisions: Decisions) -> None:
        """Remember what was decided about the rows of that name (row_decisions.py)."""
        if filters.semantic is not None or filters.judge is not None:
            self._decisions[key] = decisions

    def written(self, key: str) -> InputFile | None:
        """Write all decisions below the output folder, beside the inspection of that key, and return where; None where nothing was asked."""
        return write_decisions(self._target, f"inspections/{key}", self._decisions) if self._decisions else None

    def _meanings(self, settings: SemanticDuplicates) -> RowModels:
        try:
            # The image that inspects other jobs has no torch.
            from finetune_trainer.inspect.embedder import embedder
            from finetune_trainer.inspect.meaning import Meanings
        except ImportError as error:
            raise TrainerFailure(
                ExitCode.BUG,
                f"filters.deduplicate: semantic needs the trainer's packages, and {error.name} is missing: use the trainer's image",
            ) from error
        folder = self._open.enter_context(tempfile.TemporaryDirectory(prefix="embedding-model-"))
        return Meanings(embedder(settings, Path(folder)), settings.threshold)
