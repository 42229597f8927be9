"""A training program as the estimator sees it, and what the columns alone make of a row."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from accuracy.rows import Row
from accuracy.stacks import columns
from finetune_operator.memory.architecture import ALL_LINEAR, Architecture
from finetune_operator.memory.kinds import Quantization, Tuning
from finetune_operator.memory.software import Software
from finetune_operator.memory.workload import Workload

Reading = Callable[[Row, Architecture], Workload | str]
Layout = Callable[[Architecture], Architecture]


def as_in_transformers(architecture: Architecture) -> Architecture:
    """Return the architecture as it is: the program runs transformers' modules."""
    return architecture


@dataclass(frozen=True)
class Stack:
    """A training program; `workload` returns what it makes of a row, or why that cannot be told."""

    name: str
    pattern: str
    workload: Reading
    ties_embeddings: bool = True
    """The program shares the embedding with the head where the model does; litgpt keeps two tensors."""
    layout: Layout = as_in_transformers
    """What the program's own modules make of the architecture."""

    def runs(self, framework: str) -> bool:
        """Return whether the lower-case `framework` of a row names this program."""
        return re.search(self.pattern, framework) is not None


def read(row: Row, architecture: Architecture) -> Workload | str:
    """Read the columns as they stand."""
    batch, length = row.whole("micro_batch"), row.whole("seq_len")
    if batch is None or length is None:
        return f"micro_batch is {row.text('micro_batch')!r} and seq_len {row.text('seq_len')!r}: both are needed"
    tuning, strategy = columns.tuning_of(row), columns.strategy_of(row)
    adapts = tuning not in (Tuning.FULL, Tuning.FREEZE, Tuning.SPECTRUM)
    targets = columns.targets_of(row, architecture) if adapts else (ALL_LINEAR,)
    return Workload(
        tuning=tuning,
        quantization=columns.quantization_of(row) if adapts else Quantization.NONE,
        numerics=columns.numerics_of(row, tuning),
        micro_batch=batch,
        sequence_length=length,
        accumulation=row.whole("grad_accum") or 1,
        strategy=strategy,
        processes=columns.processes_of(row, strategy),
        checkpointing=columns.checkpointing_of(row),
        rank=columns.rank_of(row, architecture, targets) if adapts else 16,
        targets=targets,
        loss=columns.loss_of(row),
        optimizer=columns.optimizer_of(row),
        attention=columns.attention_of(row),
        varied_lengths=columns.has_varied_lengths(row),
        packing=row.text("packing") == "1" or row.text("seq_kind").startswith("fixed"),
        offload=columns.offload_of(row),
        flat_parameters="fsdp1" in row.text("sharding").lower(),
        tensor_parallel=row.whole("tp") or 1,
        context_parallel=row.whole("cp") or 1,
        trained_embeddings="embed" in row.method or "wte" in row.text("target_modules"),
        # torch.compile's partitioner keeps a norm's input and makes its float32 copy again, as fused norms do.
        software=Software(fused_norms=row.text("compile") == "1"),
        trained_parameters=(row.whole("trainable_params") or 0) if tuning is Tuning.OTHER else 0,
    )


GENERIC: Final = Stack(name="generic", pattern="", workload=read)
"""A program that nothing is known of: the columns as they stand."""
