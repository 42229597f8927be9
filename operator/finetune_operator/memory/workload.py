"""What a training process is asked to do, as far as its memory depends on it: the estimator's second input beside the architecture."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

from finetune_operator.api.compatibility import Checkpointing, Method, Strategy
from finetune_operator.api.spec import FineTuneJobSpec
from finetune_operator.memory.architecture import ALL_LINEAR


class LossKind(StrEnum):
    """How the loss gets from hidden states to log-probabilities."""

    CHUNKED = "chunked"
    """TRL 1.16's fused head: tiles of 4,096 tokens × 32,768 words, never the whole logits."""
    FULL_LOGITS = "full-logits"
    """The model's own loss: logits of every token in compute type and float32."""


@dataclass(frozen=True)
class Numerics:
    """Bytes per element of what is kept and computed."""

    base: int
    """Weights that are not trained (methods lora and qlora; of qlora those that are not quantised)."""
    trained: int
    """Trained weights, their gradients and each of AdamW's two moments."""
    compute: int
    autocast: bool
    """torch.autocast casts float32 to the compute type inside the model; DeepSpeed and FSDP2 cast the weights themselves."""


PURE_BF16 = Numerics(base=2, trained=2, compute=2, autocast=False)
"""Everything in bfloat16, 8 bytes per trained parameter. The trainer does not do this (updates below 2^-8 vanish); oracles and other trainers do."""
FLOAT32_MASTER = Numerics(base=2, trained=4, compute=2, autocast=True)
"""Trained weights, gradients and moments in float32 (16 bytes per parameter), computing in bfloat16."""
FLOAT32 = Numerics(base=4, trained=4, compute=4, autocast=False)


@dataclass(frozen=True)
class Workload:
    """One process's share of a training step."""

    method: Method
    numerics: Numerics
    micro_batch: int
    sequence_length: int
    """Tokens of the longest sequence that a batch can hold; shorter ones are padded to it."""
    accumulation: int = 1
    strategy: Strategy = Strategy.SINGLE
    processes: int = 1
    checkpointing: Checkpointing = Checkpointing.FULL
    rank: int = 16
    targets: tuple[str, ...] = (ALL_LINEAR,)
    dropout: float = 0.0
    loss: LossKind = LossKind.CHUNKED
    accelerator: Literal["gpu", "cpu"] = "gpu"

    @property
    def tokens(self) -> int:
        """Tokens of one micro-batch, padding included."""
        return self.micro_batch * self.sequence_length

    @property
    def shards(self) -> int:
        """Over how many processes FSDP and ZeRO spread their states."""
        return self.processes if self.strategy not in (Strategy.SINGLE, Strategy.DDP) else 1

    @property
    def autocasts(self) -> bool:
        """Whether torch.autocast casts activations and weights again and again; sharded full training holds bfloat16 copies instead."""
        return self.numerics.autocast and not (self.method is Method.FULL and self.shards > 1)


def numerics_of(spec: FineTuneJobSpec) -> Numerics:
    """Return the number formats that the trainer uses for `spec`.

    bf16: float32 trained weights under autocast (16 bytes per parameter) beside a base in bfloat16. Also of qlora: TRL 1.16 casts the adapters
    of a quantised model to bfloat16, and the trainer casts them back (modeling.py, `restore_float_masters`).
    """
    return FLOAT32 if spec.training.precision == "fp32" else FLOAT32_MASTER


def workload_of(
    spec: FineTuneJobSpec,
    *,
    sequence_length: int,
    micro_batch: int,
    accumulation: int,
    strategy: Strategy,
    processes: int,
    checkpointing: Checkpointing,
) -> Workload:
    """Return the workload of one process for `spec` and one way to split its global batch."""
    adapter = spec.tuning.adapter
    return Workload(
        method=spec.tuning.method,
        numerics=numerics_of(spec),
        micro_batch=micro_batch,
        sequence_length=sequence_length,
        accumulation=accumulation,
        strategy=strategy,
        processes=processes,
        checkpointing=checkpointing,
        rank=adapter.rank,
        targets=tuple(adapter.targets),
        dropout=adapter.dropout,
        accelerator=spec.resources.accelerator,
    )
