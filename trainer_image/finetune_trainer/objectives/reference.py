"""The reference that preferences are learned against: the model as it was before, which must be asked about every answer.

With adapters it is the model without them (TRL switches them off); of a model that is trained itself a frozen copy stands beside it. Where the plan
says so, it is asked once about all rows instead, before the first step, and what it said goes into every checkpoint: attempts that follow need
neither the copy nor the time. TRL 1.16 can do so as well (precompute_ref_log_probs), but hashes all weights, writes a file per pod by
`datasets.map`, reads the whole model on each rank with FSDP, and starts anew in each attempt.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, Final

import torch
from peft import PeftModel

from finetune_operator.api.exit_codes import ExitCode
from finetune_operator.api.time_spent import LostCause
from finetune_trainer.dataset import ROW, rows_digest
from finetune_trainer.failures import TrainerFailure
from finetune_trainer.job_context import JobContext
from finetune_trainer.job_trainer import JobTraining

REFERENCE_FILE: Final = "reference_log_probabilities.pt"


class ReferenceCollator:
    """Adds to a library's batches what the reference said of their rows."""

    def __init__(self, collator: Any, names: Sequence[str]) -> None:
        self._collator, self._names = collator, names
        self.table: torch.Tensor | None = None
        """Rows × names: log-probabilities in nats; None while they are computed."""

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        """Return a batch."""
        batch: dict[str, Any] = self._collator(rows)
        if self.table is not None:
            of_rows = self.table[[row[ROW] for row in rows]]
            batch |= dict(zip(self._names, of_rows.unbind(dim=1), strict=True))
        return batch


class ReferenceTraining(JobTraining):
    """A rank's trainer whose loss compares with a reference, to be mixed in before one of TRL's classes that do."""

    reference_names: ClassVar[tuple[str, ...]]
    """Under which keys the library's loss looks for precomputed log-probabilities in a batch."""

    def __init__(self, context: JobContext, **arguments: Any) -> None:
        self._precomputes = context.attempt.plan.precomputed_reference
        with without_reference_model(type(self)) if self._precomputes else contextlib.nullcontext():
            super().__init__(context, **arguments)
        if self._precomputes:
            self.precompute_ref_logps = True
            self.data_collator: Any = ReferenceCollator(self.data_collator, self.reference_names)
            if self.evaluator is not None:
                self.evaluator.collate = ReferenceCollator(self.evaluator.collate, self.reference_names)

    def _prepare_dataset(self, dataset: Any, *_: Any) -> Any:
        """Leave rows as they are: they come encoded and cut."""
        return dataset

    def before_training(self, resumed_from: Path | None) -> None:
        """Ask the reference about all rows, unless the checkpoint has its answers."""
        if not self._precomputes:
            return
        tables = None if resumed_from is None else self._saved(resumed_from)
        if tables is None and resumed_from is not None and not isinstance(self.model, PeftModel):
            raise TrainerFailure(
                ExitCode.CHECKPOINTS_UNUSABLE,
                f"the checkpoint has no log-probabilities of these rows under the reference model ({REFERENCE_FILE}), and that model was trained "
                "since; start anew, or resume with the data set that the checkpoint was trained on",
            )
        if tables is None:
            started = time.monotonic()
            tables = [self._ask(collator, rows) for collator, rows in self._asked()]
            seconds = time.monotonic() - started
            self.context.telemetry.metrics.badput(LostCause.REFERENCE, seconds)
            asked = sum(map(len, tables))
            print(f"rank {self.context.place.rank}: the reference was asked about {asked} rows in {seconds:.1f} s")
        for (collator, _), table in zip(self._asked(), tables, strict=True):
            collator.table = table

    def _asked(self) -> list[tuple[ReferenceCollator, Any]]:
        """Return the rows that the reference is asked about, each with what adds its answers to them: those that are trained, then others."""
        rows = [(self.data_collator, self.train_dataset)]
        if self.evaluator is not None:
            rows.append((self.evaluator.collate, self.evaluator.rows))
        return rows

    def save_beside(self, folder: Path) -> None:
        """Keep what the reference said with the checkpoint."""
        if self._precomputes and self.context.place.is_first:
            tables = [collator.table for collator, _ in self._asked()]
            saved = {"rows": rows_digest(self.context.attempt), "tables": tables}
            torch.save(saved, folder / REFERENCE_FILE)

    def _saved(self, folder: Path) -> list[torch.Tensor] | None:
        """Return the tables in a checkpoint; None where it has none, or those of other rows."""
        path = folder / REFERENCE_FILE
        if not path.is_file():
            return None
        saved = torch.load(path, weights_only=True)
        if saved["rows"] != rows_digest(self.context.attempt):
            return None
        # Before evaluation rows had answers there was one table.
        tables: list[torch.Tensor] = saved["tables"] if "tables" in saved else [saved["table"]]
        return tables

    def _ask(self, collator: ReferenceCollator, rows: Any) -> torch.Tensor:
        """Return the log-probabilities of all rows; each rank computes those of its batches. Collective."""
        place = self.context.place
        table = torch.zeros(len(rows), len(self.reference_names), device=self.accelerator.device)
        batches = _of_like_lengths(self.context.recipe.lengths(rows.data.table), self.args.per_device_train_batch_size)
        self.model_wrapped.eval()
        for first in range(0, len(batches), place.world_size):
            # Every rank passes through the model equally often, or those that shard it would wait for each other forever.
            number = first + place.rank
            batch = batches[number % len(batches)]
            inputs = self._prepare_inputs(collator([rows[row] for row in batch]))
            said = self.compute_ref_log_probs(self.model_wrapped, inputs)
            if number < len(batches):
                table[batch] = torch.stack([each.float() for each in said], dim=1)
        self.model_wrapped.train()
        summed: torch.Tensor = self.accelerator.reduce(table, "sum")
        return summed.cpu()


def _of_like_lengths(lengths: Any, size: int) -> list[list[int]]:
    """Return the numbers of all rows in batches that need little padding; the longest come first, so that memory is seen to be enough."""
    import pyarrow.compute

    order = pyarrow.compute.sort_indices(lengths, sort_keys=[("", "descending")]).to_pylist()
    return [order[first : first + size] for first in range(0, len(order), size)]


@contextlib.contextmanager
def without_reference_model(trainer: type) -> Iterator[None]:
    """Keep TRL from loading a reference model. It has no switch for that but precompute_ref_log_probs, with all that comes with it."""
    library = next(base for base in trainer.__mro__ if base.__module__.startswith("trl."))
    module: Any = sys.modules[library.__module__]
    load = module.create_model_from_path
    module.create_model_from_path = lambda *_, **__: None
    try:
        yield
    finally:
        module.create_model_from_path = load
