"""What of a workload the programme of one layer depends on; batch, length and processes are not among it, so programmes are made once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from finetune_operator.memory.architecture import ALL_LINEAR, Architecture
from finetune_operator.memory.blocks import NormKind, NormPlacement
from finetune_operator.memory.kinds import AttentionKernel, Quantization, Tuning
from finetune_operator.memory.software import Software
from finetune_operator.memory.workload import Workload

FLOAT32 = 4
BITSANDBYTES_4BIT: Final = frozenset({Quantization.NF4, Quantization.NF4_DOUBLE})
BITSANDBYTES: Final = BITSANDBYTES_4BIT | {Quantization.INT8}


@dataclass(frozen=True)
class LayerMode:
    """How one layer is computed. Widths are bytes per element."""

    compute: int
    """Of matrix products."""
    stream: int
    """Of the residual stream."""
    base: int
    """Of frozen weights."""
    trained: int
    """Of trained weights and their gradients; of what sharding gathers and reduces there is nothing here (states.py)."""
    autocasts: bool
    trains_weights: bool
    """Of this layer."""
    tuning: Tuning
    targets: tuple[str, ...]
    rank: int
    drops: bool
    """Dropout before the adapters."""
    kernel: AttentionKernel
    masked: bool
    quantized: bool
    """bitsandbytes' linear modules: they widen their weight to the compute type at every use. GPTQ's kernels widen tile by tile."""
    input_differentiable: bool
    """Whether the gradient goes on to the layer below."""
    accumulates: bool
    """Gradients of earlier micro-batches exist."""
    keeps_gradients: bool
    """Gradients of weights stay whole in this process."""
    on_cpu: bool
    software: Software

    def is_adapted(self, name: str) -> bool:
        """Whether the linear module of this name carries a low-rank adapter."""
        has_adapters = self.tuning in (Tuning.LORA, Tuning.DORA, Tuning.OTHER)
        return has_adapters and (self.targets == (ALL_LINEAR,) or name in self.targets)


def layer_mode(
    workload: Workload,
    *,
    trains_weights: bool,
    input_differentiable: bool,
    normed_embedding: bool = False,
    masked: bool | None = None,
    quantizable: bool = True,
) -> LayerMode:
    """Return the mode of a layer whose own weights are trained or not.

    Args:
        workload: What the process does.
        trains_weights: Of this layer.
        input_differentiable: Whether the gradient goes on to the layer below.
        normed_embedding: A LayerNorm makes the first layer's input.
        masked: Whether its attention has a mask; None: where batches bring one.
        quantizable: Whether bitsandbytes knows any of its modules.
    """
    numerics = workload.numerics
    adapter_like = not workload.trains_base
    widens = workload.upcasts_rest and workload.quantization is not Quantization.NONE
    return LayerMode(
        compute=numerics.compute,
        stream=residual_bytes(workload, normed_embedding=normed_embedding),
        base=FLOAT32 if widens else numerics.base,
        trained=numerics.compute if workload.casts_weights else numerics.trained,
        autocasts=workload.autocasts,
        trains_weights=trains_weights,
        tuning=workload.tuning,
        targets=workload.targets if adapter_like else (),
        rank=workload.rank if adapter_like else 0,
        drops=adapter_like and workload.dropout > 0,
        kernel=workload.attention,
        masked=workload.has_padding_mask if masked is None else masked,
        quantized=quantizable and workload.quantization in BITSANDBYTES,
        input_differentiable=input_differentiable,
        accumulates=workload.accumulates,
        keeps_gradients=workload.shards == 1,
        on_cpu=workload.accelerator == "cpu",
        software=workload.software,
    )


def residual_bytes(workload: Workload, *, normed_embedding: bool = False) -> int:
    """Bytes per element of the residual stream: float32 where a float32 embedding starts it and autocast leaves it so, or where norms do.

    Autocast runs LayerNorm in float32 and leaves its output so: a `normed_embedding` starts the stream of BERT and its kind.
    """
    if workload.software.float32_norms or (normed_embedding and workload.autocasts):
        return FLOAT32
    numerics = workload.numerics
    if not workload.autocasts:
        return numerics.compute
    embedding = FLOAT32 if workload.upcasts_rest and workload.quantization is not Quantization.NONE else numerics.base
    # FSDP and ZeRO compute with copies of the weights in the compute type, the embedding's as well.
    trained = numerics.trained if workload.shards == 1 else numerics.compute
    return max(numerics.compute, trained if workload.trains_base else embedding)


def has_wide_stream(architecture: Architecture, workload: Workload) -> bool:
    """Whether autocast leaves the residual stream in float32 because a LayerNorm, which it runs so, starts it or feeds 4-bit modules.

    bitsandbytes' Linear4bit gives back the type that it was given, so that the MLP behind a LayerNorm adds float32 to the stream.
    """
    block = architecture.main_block
    feeds = block.norm is NormKind.LAYER and block.placement is NormPlacement.BEFORE
    quantises = workload.quantization in BITSANDBYTES_4BIT and block.quantisable_parameters > 0
    return architecture.embedding_norm or (feeds and quantises)
