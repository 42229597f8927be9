"""What differs between objectives in a rank's life: how a row becomes numbers, which head the model has, and who trains it.

Everything else (download, checkpoints, faults, memory, progress) is the same for all and knows objectives by this interface alone. The half
above `configuration` is used while torch is still being imported.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

import pyarrow as pa
import pyarrow.compute

from finetune_operator.api.plan import AttemptFile
from finetune_trainer.rendering import Text
from finetune_trainer.rows import RowValue
from finetune_trainer.tokenizer_files import TokenizerFiles

if TYPE_CHECKING:
    from finetune_trainer.job_context import JobContext

EncodedRow = Mapping[str, Any]
"""One row of the encoded data set: a value per column of the recipe's schema."""


@dataclass(frozen=True)
class ModelHead:
    """What the model ends in: transformers' class, PEFT's word for the task, and the classes where it has some."""

    auto_class: str
    task_type: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Further values of the model's config, such as num_labels."""


CAUSAL: Final = ModelHead("AutoModelForCausalLM", "CAUSAL_LM")


class RowEncoder(Protocol):
    """Turns rows into numbers."""

    def __call__(self, value: RowValue, texts: Sequence[Text]) -> Sequence[EncodedRow]:
        """Return what is made of a row and its rendered texts, within the plan's length: nothing where there is nothing to learn from."""
        ...


class Parts(NamedTuple):
    """What a trainer is built from."""

    model: Any
    tokenizer: Any
    rows: Any
    """The encoded rows, a `datasets.Dataset`."""
    peft_config: Any
    """None where the model's own weights are trained."""
    callbacks: list[Any]

    def arguments(self, configuration: Any) -> dict[str, Any]:
        """Return them under the names that TRL's trainers have for them."""
        return {
            "model": self.model,
            "args": configuration,
            "train_dataset": self.rows,
            "processing_class": self.tokenizer,
            "peft_config": self.peft_config,
            "callbacks": self.callbacks,
        }


class Recipe(ABC):
    """One objective."""

    schema: pa.Schema
    """Columns of the encoded rows."""
    measures: Mapping[str, str]
    """Where its library logs them: key of the log → name in finetune_operator.api.measures."""
    held_out: Mapping[str, str] = {}
    """Those that are also told of the evaluation rows: means over what `evaluation.counted` counts in a batch, so that they can be added up."""

    scores_untrained: bool = False
    """Whether the held-out measures say something of the model before its first step: not where its head is new and random."""

    def head(self, attempt: AttemptFile) -> ModelHead:
        """Return what the model ends in; training, export and publication load it so."""
        return CAUSAL

    @abstractmethod
    def encoder(self, attempt: AttemptFile, tokenizer: TokenizerFiles) -> RowEncoder:
        """Return what encodes the rows of this job."""

    def lengths(self, rows: pa.Table) -> pa.ChunkedArray:
        """Return the tokens of each encoded row, as far as its memory grows with them: the longest batch is tried first."""
        return pyarrow.compute.list_value_length(rows.column("input_ids"))

    @abstractmethod
    def configuration(self, attempt: AttemptFile, staging: Path, *, loads_once: bool) -> Any:
        """Return the trainer's arguments. It sets up what loading a model depends on (DeepSpeed): call it before."""

    def finish(self, attempt: AttemptFile, folder: Path, dtype: str) -> None:  # noqa: B027 - most have nothing to add
        """Add what belongs beside the published weights (in `dtype`) in `folder`, and try all of it as its users will.

        Raises:
            TrainerFailure: They would not get the model that was trained; it is not published.
        """

    @abstractmethod
    def trainer(self, context: JobContext, configuration: Any, parts: Parts) -> Any:
        """Return the trainer: a JobTraining."""
