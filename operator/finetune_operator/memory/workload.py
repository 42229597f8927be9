"""What a training process is asked to do, as far as its memory depends on it: the estimator's second input beside the architecture."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Final, Literal

from finetune_operator.api.compatibility import Checkpointing, Offload, Strategy
from finetune_operator.memory.architecture import ALL_LINEAR
from finetune_operator.memory.kinds import (
    AttentionKernel,
    Goal,
    LossKind,
    Numerics,
    Optimizer,
    Quantization,
    Teacher,
    Tuning,
)
from finetune_operator.memory.software import OWN_SOFTWARE, Software

TILE_TOKENS: Final = 4096
"""trl/kernels/chunked_logprob.py: TOKEN_CHUNK_SIZE."""


@dataclass(frozen=True)
class Workload:
    """One process's share of a training step."""

    tuning: Tuning
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
    """Of the adapters' inputs."""
    loss: LossKind = LossKind.CHUNKED
    accelerator: Literal["gpu", "cpu"] = "gpu"
    quantization: Quantization = Quantization.NONE
    optimizer: Optimizer = Optimizer.ADAMW
    attention: AttentionKernel = AttentionKernel.SDPA
    varied_lengths: bool = False
    """Batches have different lengths and the caching allocator's segments cannot grow: blocks of short steps lie idle in long ones."""
    packing: bool = False
    """Rows are joined to full length: batches bring no padding mask."""
    separates_rows: bool = False
    """Joined rows do not see each other: batches bring a block-diagonal mask (training.packing)."""
    goal: Goal = Goal.SFT
    offload: Offload = Offload.NONE
    reshards: bool = True
    """FSDP2 frees a layer's gathered weights after its forward pass (ZeRO-3), or keeps them until backward (ZeRO-2 like)."""
    flat_parameters: bool = False
    """FSDP 1: one flat parameter per layer, gathered whole, gradients and reduction in it."""
    tensor_parallel: int = 1
    context_parallel: int = 1
    trained_layers: int = 0
    """Of tuning freeze."""
    trained_modules: tuple[str, ...] = ()
    """Of tuning freeze: only the weights of these linear layers in the trained layers; empty: the layers, the norm after them and the head."""
    freezes_tied_head: bool = False
    """Tuning freeze leaves a head alone that is the input embedding as well (the trainer); other programs train both."""
    noisy_embeddings: bool = False
    """NEFTune: the embeddings exist with and without noise, and the noise."""
    trained_fraction: float = 0.0
    """Of tuning spectrum."""
    trained_embeddings: bool = False
    """Adapters beside a wholly trained embedding and head (PEFT's modules_to_save)."""
    trained_parameters: int = 0
    """Of tuning other."""
    frozen_beside: int = 0
    """Frozen elements, in the base's type, that a method of tuning other keeps beside the base (OSF's leading singular vectors)."""
    software: Software = OWN_SOFTWARE
    """Habits of other training programs, for comparison with what they published."""
    upcasts_rest: bool = False
    """Weights that are not quantised become float32 (PEFT's prepare_model_for_kbit_training)."""
    syncs_every_batch: bool = False
    """FSDP reduces gradients after every micro-batch; otherwise they stay whole on every process until the last one (accelerate's no_sync).
    The trainer of this project does."""
    splits_root: bool = False
    """FSDP 2 as accelerate 1.15 sets it up (fsdp2_prepare_model), and so the trainer: an embedding that is not the head as well is gathered for
    its own passes alone, not with the head until the end of backward."""
    reduce_bucket: int = 500_000_000
    """Elements of DeepSpeed's reduce_bucket_size; transformers' `auto` makes it hidden size squared."""
    loads_whole: bool = False
    """A quantised model is whole on every GPU before FSDP spreads it: bitsandbytes quantises on the GPU."""
    efficient_loading: bool = False
    """Only the first process reads the weights and sends the others theirs (the trainer with FSDP2, modeling.py)."""
    evaluation_batch: int = 0
    """Sequences of one evaluation batch on one process; 0: the run does not evaluate."""
    generation_bytes: int = 0
    """GRPO: what a colocated inference engine holds; 0: the training model samples itself."""
    kl_penalty: bool = False
    """Generated answers are compared with what the model that training started from makes of them."""
    answer_tokens: int = 0
    """Of the longest answer that is generated."""
    teacher: Teacher | None = None
    """Whose distribution is learned (objective distill); None: of the rows alone."""
    reward_parameters: int = 0
    """Elements of the reward models, which stand frozen and whole in every process, in the compute type."""
    scoring_width: int = 0
    """Bytes that one token has in the widest layer of any of them, without gradients."""
    precomputed_reference: bool = False
    """DPO: the reference's log-probabilities were computed before training, so that it needs no copy of the model."""

    @cached_property
    def sequences(self) -> int:
        """Sequences of one micro-batch that pass through the model together; pairs count twice."""
        return self.micro_batch * self.sequences_per_row

    @property
    def sequences_per_row(self) -> int:
        """Two of a pair, whose answers each come with the prompt."""
        return 2 if self.goal in (Goal.DPO, Goal.ORPO, Goal.REWARD, Goal.EMBEDDING) else 1

    @property
    def asks_reference(self) -> bool:
        """Whether each step passes its batch through a reference model as well."""
        return self.kl_penalty or (self.goal in (Goal.DPO, Goal.KTO) and not self.precomputed_reference)

    @property
    def generates(self) -> bool:
        """Whether a step generates the answers that it learns from."""
        return self.goal in (Goal.GRPO, Goal.RLOO)

    @property
    def passes_beside(self) -> int:
        """Forward passes of the batch beside the one that is learned from: of the reference, KTO's of mismatched answers through both, RLOO's own.

        With goal embedding one that makes the vectors of a whole batch, where it does not fit at once.
        """
        if self.goal is Goal.EMBEDDING:
            return 1 if self.has_several_micro_batches else 0
        asked = (3 if self.goal is Goal.KTO else 1) if self.asks_reference else 0
        return asked + (self.goal is Goal.RLOO)

    @cached_property
    def tokens(self) -> int:
        """Tokens of one micro-batch on one process, padding included."""
        return -(-self.sequences * self.length // self.context_parallel)

    @property
    def has_several_tiles(self) -> bool:
        """Whether TRL's chunked head goes through a micro-batch in several tiles."""
        return self.tokens > TILE_TOKENS

    @property
    def keeps_reference(self) -> bool:
        """Whether a frozen copy of the model stands beside it: adapters are switched off instead (TRL 1.16)."""
        return self.asks_reference and self.trains_base

    @property
    def length(self) -> int:
        """Tokens of one sequence, those before it that a prompt adds included."""
        return self.sequence_length + (self.rank if self.tuning is Tuning.PROMPT else 0)

    @cached_property
    def pairs(self) -> int:
        """Pairs of tokens of the same sequence: what scores and masks of attention grow with."""
        return self.local_tokens * self.length

    @property
    def local_tokens(self) -> int:
        """As many tokens as have the activations of one process: with tensor parallelism its share of them.

        It divides heads, MLP and vocabulary by width, and the rest by tokens (sequence parallelism, arXiv 2205.05198, §4.2.2).
        """
        return -(-self.tokens // self.tensor_parallel)

    @property
    def trains_base(self) -> bool:
        """Whether the model's own weights are trained, all or some."""
        return self.tuning in (Tuning.FULL, Tuning.FREEZE, Tuning.SPECTRUM)

    @property
    def has_adapters(self) -> bool:
        """Whether linear layers carry adapters that read their input."""
        return self.tuning in (Tuning.LORA, Tuning.DORA, Tuning.OTHER)

    @property
    def has_padding_mask(self) -> bool:
        """Whether batches bring a mask that fused attention has to apply: for padding, or between the rows of a sequence."""
        pads = self.sequences > 1 and not self.packing
        return (pads or self.separates_rows) and self.attention is not AttentionKernel.FLASH

    @cached_property
    def shards(self) -> int:
        """Over how many processes FSDP and ZeRO spread their states; those of one tensor-parallel group hold different parts already."""
        if self.strategy in (Strategy.SINGLE, Strategy.DDP):
            return 1
        return max(1, self.processes // self.tensor_parallel)

    @property
    def is_sharded(self) -> bool:
        """Whether FSDP or ZeRO spread states over several processes."""
        return self.shards > 1

    @property
    def has_several_micro_batches(self) -> bool:
        """Whether a step has more than one."""
        return self.accumulation > 1

    @property
    def accumulates(self) -> bool:
        """Whether gradients of earlier micro-batches of the step exist."""
        return self.has_several_micro_batches or self.software.steps_in_backward

    @property
    def casts_weights(self) -> bool:
        """Whether sharding hands the layers trained weights in the compute type, adapters too with FSDP 2 (MixedPrecisionPolicy, param_dtype)."""
        if self.shards == 1:
            return False
        return self.trains_base or (self.strategy is Strategy.FSDP and not self.flat_parameters)

    @property
    def autocasts(self) -> bool:
        """Whether torch.autocast casts activations and weights again and again; sharded full training holds bfloat16 copies instead.

        So does FSDP 2: accelerate (1.15, _prepare_fsdp2) does not wrap the model's forward in autocast there, as it does on one GPU and with DDP.
        """
        return self.numerics.autocast and not self.casts_weights
