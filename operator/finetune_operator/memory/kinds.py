"""The kinds of things that the memory of a training step depends on: methods, number formats, optimizers, kernels, losses."""

from __future__ import annotations

from dataclasses import dataclass

from finetune_operator.api.words import Word


class Tuning(Word):
    """What is trained. More than the trainer launches today (api.compatibility.Method): published measurements cover more."""

    FULL = "full"
    FREEZE = "freeze"
    """The last `trained_layers` layers, the last norm and the head, with the rest frozen."""
    SPECTRUM = "spectrum"
    """The `trained_fraction` of linear weights with the best signal-to-noise ratio, spread over all layers (arXiv 2406.06623)."""
    LORA = "lora"
    DORA = "dora"
    IA3 = "ia3"
    ADAPTER = "adapter"
    """Bottleneck layers of width `rank` behind attention and MLP (arXiv 1902.00751)."""
    PROMPT = "prompt"
    """`rank` virtual tokens before the input (arXiv 2104.08691)."""
    PREFIX = "prefix"
    """`rank` virtual keys and values in every layer (arXiv 2101.00190)."""
    OTHER = "other"
    """Any other method that adds `trained_parameters` small parameters to a frozen model: predicted by one generic rule."""


class Quantization(Word):
    """How frozen linear weights are stored."""

    NONE = "none"
    NF4 = "nf4"
    """4.5 bits per weight: a float32 scale per 64 weights."""
    NF4_DOUBLE = "nf4-double"
    """4.127 bits per weight: the scales quantised as well (the trainer's qlora)."""
    INT4_GROUPED = "int4-grouped"
    """GPTQ and AWQ with groups of 128: 4.16 bits per weight."""
    INT8 = "int8"
    """bitsandbytes' LLM.int8: a byte per weight, a float32 per output."""
    INT8_GROUPED = "int8-grouped"
    """GPTQ with 8 bits and groups of 128: 8.19 bits per weight."""


class Optimizer(Word):
    """The optimizers whose states and temporaries differ."""

    ADAMW = "adamw"
    """torch's fused AdamW: transformers' default."""
    ADAMW_FOREACH = "adamw-foreach"
    ADAMW_8BIT = "adamw-8bit"
    PAGED_ADAMW = "paged-adamw"
    PAGED_ADAMW_8BIT = "paged-adamw-8bit"
    ADAFACTOR = "adafactor"
    SGD = "sgd"
    MUON = "muon"


class AttentionKernel(Word):
    """How attention is computed."""

    SDPA = "sdpa"
    """torch's fused kernels; without grouped heads where a padding mask is given."""
    FLASH = "flash"
    """Flash attention, padding taken out of the batch: no mask."""
    EAGER = "eager"
    """Scores of every head as tensors: heads × length² each."""


class Goal(Word):
    """What the loss compares; the estimator's word for the objective, which decides how many sequences and models are in memory."""

    SFT = "sft"
    DPO = "dpo"
    """Chosen and rejected sequence of each pair in one batch, and a reference model: the base without adapters, or a frozen copy."""
    ORPO = "orpo"
    """Chosen and rejected sequence, no reference."""
    KTO = "kto"
    """Single sequences and a reference model as DPO's; each batch passes through both once more with mismatched answers, without gradients."""
    REWARD = "reward"
    """Chosen and rejected sequence, and a head of one output."""
    GRPO = "grpo"
    """A group of sampled sequences; generation shares the GPU."""
    RLOO = "rloo"
    """The same, which pass through the model once more before the loss (TRL 1.16 asks for their log-probabilities, GRPO's are those of the loss)."""
    CLASSIFICATION = "classification"
    EMBEDDING = "embedding"
    """Two texts of each row; with accumulation all texts pass once more beforehand, without gradients (GradCache, arXiv 2101.06983)."""


class LossKind(Word):
    """How the loss gets from hidden states to log-probabilities."""

    CHUNKED = "chunked"
    """TRL 1.16's fused head: tiles of 4,096 tokens × 32,768 words, never the whole logits."""
    FULL_LOGITS = "full-logits"
    """The model's own loss: logits of every token in compute type and float32."""
    FUSED_LOGITS = "fused-logits"
    """A fused cross-entropy kernel on whole float32 logits and their shifted copy, which the gradient overwrites: 8 bytes per logit."""
    LIGER = "liger"
    """Liger's fused linear cross-entropy: chunks of the logits."""
    HELD_CHUNKS = "held-chunks"
    """litgpt: logits and loss 128 tokens at a time, but all chunks stay, in float32: 8 bytes per logit."""
    OUTPUT_CHUNKS = "output-chunks"
    """torchtune: logits of all tokens in the compute type, in 8 chunks that are widened and compared one at a time."""


@dataclass(frozen=True)
class Teacher:
    """A second model that every process asks about each batch (objective distill); it is whole, frozen and in the compute type."""

    parameters: int
    hidden: int
    live_width: int
    """Elements per token of its widest layer without gradients."""


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
    moments: int | None = None
    """Bytes of one element of an AdamW moment; None: as `trained`."""
    reduces: int | None = None
    """Bytes of one element of a gradient on its way between FSDP's processes; None: as `compute`."""

    @property
    def reduction(self) -> int:
        """Bytes of one element of a gradient while FSDP reduces it."""
        return self.compute if self.reduces is None else self.reduces

    @property
    def moment(self) -> int:
        """Bytes of one element of an AdamW moment."""
        return self.trained if self.moments is None else self.moments


PURE_BF16 = Numerics(base=2, trained=2, compute=2, autocast=False)
"""Everything in bfloat16, 8 bytes per trained parameter. The trainer does not do this (updates below 2^-8 vanish); oracles and other trainers do."""
FLOAT32_MASTER = Numerics(base=2, trained=4, compute=2, autocast=True)
"""Trained weights, gradients and moments in float32 (16 bytes per parameter), computing in bfloat16."""
BF16_FLOAT32_MOMENTS = Numerics(base=2, trained=2, compute=2, autocast=False, moments=4)
"""bfloat16 weights and gradients with float32 moments, 12 bytes per parameter: what Megatron-like trainers without master weights do."""
FLOAT32 = Numerics(base=4, trained=4, compute=4, autocast=False)
