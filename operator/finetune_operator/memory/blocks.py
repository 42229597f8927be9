"""What a transformer is made of, as far as memory and time depend on it: tensors, attention, feed-forward part, and the block that joins them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from math import prod

from finetune_operator.api.words import Word
from finetune_operator.memory.traced_layers import TracedActivations


class TensorClass(Word):
    """What a tensor belongs to."""

    EMBEDDING = "embedding"
    HEAD = "head"
    ATTENTION = "attention"
    MLP = "mlp"
    EXPERTS = "experts"
    ROUTER = "router"
    NORM = "norm"


class NormKind(Word):
    """How a normalisation is computed; they keep different tensors for the backward pass."""

    RMS = "rms"
    """Llama's: the statistics in float32, the weight multiplied in the compute type."""
    RMS_FLOAT32 = "rms-float32"
    """Gemma's: everything in float32, weight included, cast at the end."""
    LAYER = "layer"
    """torch.nn.LayerNorm: one fused kernel."""
    LAYER_FLOAT32 = "layer-float32"
    """Cohere's LayerNorm, written out in float32; OLMo 1's, one kernel on a float32 copy and without a weight (`Block.norm_weights`)."""


class NormPlacement(Word):
    """Where a block has its norms of the residual stream's width."""

    BEFORE = "before"
    """Of the input of attention and of the MLP (pre-norm): Llama, GPT-2. Parallel blocks may share one (`Block.norms`)."""
    AROUND = "around"
    """Of input and output of both: Gemma 2 and 3, GLM-4. Four norms."""
    OUTPUT = "output"
    """Of the output of both, before it is added to the stream, which attention and MLP read as it is: OLMo 2 and 3."""
    SUM = "sum"
    """Of the sum of stream and output (post-norm); the norm's output is the new stream: BERT."""


class Positions(Word):
    """How attention learns where a token stands."""

    ROTARY = "rotary"
    """Queries and keys are turned (`Attention.rotary_share` of each head)."""
    ABSOLUTE = "absolute"
    """An embedding is added to the model's input; attention itself does nothing: GPT-2, BERT, OPT."""
    ALIBI = "alibi"
    """A bias per head and key is added to the scores: Bloom, MPT, Falcon-RW, Baichuan-13B. Never stored, but it needs a mask tensor."""
    BUCKETS = "buckets"
    """A learned bias per head and bucket of distances is added to the scores: MPNet."""
    DISENTANGLED = "disentangled"
    """DeBERTa: content-to-position and position-to-content scores, each of the size of the scores, gathered and added."""
    NONE = "none"
    """Neither: SmolLM 3's and Llama 4's layers without rotary embedding."""


@dataclass(frozen=True)
class Tensor:
    """One kind of parameter tensor and how often its block (or the model, outside the blocks) has it."""

    name: str
    """The module's own name, as tuning.lora.targets and PEFT see it, such as q_proj."""
    kind: TensorClass
    shape: tuple[int, ...]
    copies: int = 1
    linear: bool = False
    """The weight of a linear module: it can carry an adapter (PEFT takes torch.nn.Linear, its subclasses, and GPT-2's Conv1D)."""
    in_features: int = 0
    out_features: int = 0
    task_head: bool = False
    """Of the module that PEFT trains whole beside adapters (task type SEQ_CLS: names that end in classifier or score)."""
    subclassed: bool = False
    """Of a subclass of torch.nn.Linear (Falcon's, Llama 4's router): PEFT adapts it, bitsandbytes (transformers 5) leaves it as it is."""
    targets: tuple[str, ...] = ()
    """No linear module, but PEFT adapts it as a parameter where all of these names are targets (api.model_types.EXPERTS_ADAPTED)."""

    @property
    def elements(self) -> int:
        """Elements of one copy."""
        return prod(self.shape)

    @property
    def total(self) -> int:
        """Elements of all copies."""
        return self.elements * self.copies

    @property
    def adapters(self) -> int:
        """Low-rank pairs of the adapter's rank: one for a linear weight; of stacked experts one per expert and name that they stand for."""
        experts = self.shape[0] if len(self.shape) == 3 else 1
        return experts * max(1, len(self.targets))

    @property
    def quantisable(self) -> bool:
        """Whether bitsandbytes stores it in 4 or 8 bits."""
        return self.linear and not self.subclassed


@dataclass(frozen=True)
class Latent:
    """Multi-head latent attention (DeepSeek V2, arXiv 2405.04434, §2.1): queries, keys and values are widened from narrow vectors."""

    query_rank: int
    """Width of the vector that queries are made of; 0: straight from the hidden state (V2-Lite)."""
    key_value_rank: int
    """Width of the vector that keys and values of all heads are made of; it has a norm, as the queries' has."""
    rotary_width: int
    """Elements of a head that are turned. The key's are projected once and shared by all heads; `head_dim` includes them."""
    complex_rotary: bool = False
    """They are turned as complex numbers, in float32 (DeepSeek V2 of transformers)."""


@dataclass(frozen=True)
class Attention:
    """The attention part of a block."""

    heads: int
    kv_heads: int
    head_dim: int
    """Elements of one head's query and key."""
    inputs: tuple[str, ...] = ("q_proj", "k_proj", "v_proj")
    """Linear modules that read the block's normalised input; a single one makes query, key and value at once."""
    output: str = "o_proj"
    value_head_dim: int = 0
    """Elements of one head's value; 0: as many as of the key."""
    input_bias: bool = False
    output_bias: bool = False
    query_key_norm: bool = False
    """Queries and keys are normalised, each head by itself or (OLMo 2 and 3) over the whole width; as `Block.norm` says."""
    query_key_norm_weights: bool = True
    """False: that norm has no weight (Llama 4)."""
    window: int = 0
    """Sliding window (Llama 4: chunk) in tokens; 0: every earlier token."""
    positions: Positions = Positions.ROTARY
    rotary_share: float = 1.0
    """Share of each head's elements that is turned; the rest is joined to it by a concatenation (Phi 0.4–0.5, GPT-NeoX 0.25, GLM 0.5)."""
    joins_rotated: bool = False
    """That concatenation is made even where every element is turned (Phi 3)."""
    latent: Latent | None = None
    softcap: bool = False
    """Scores are capped by a tanh (Gemma 2), which SDPA cannot do."""
    sinks: bool = False
    """A learned score per head that takes part in the softmax (gpt-oss), which SDPA cannot do."""
    sdpa: bool = True
    """transformers runs it through torch's scaled_dot_product_attention; otherwise only eager (Bloom, MPT, DeBERTa, MPNet) or flash and flex."""
    flash: bool = True
    """transformers runs it through flash attention."""
    causal: bool = True
    """False in encoders: every token sees every other, SDPA gets no is_causal."""
    dropout: float = 0.0
    """Dropout of the attention probabilities as config.json sets it."""
    float32_softmax: bool = True
    """Eager attention asks for a softmax in float32; BERT and GPT-2 do not, but autocast does it for them."""
    narrows_softmax: bool = False
    """Eager attention casts that softmax back before its dropout (GPT-2)."""
    always_masked: bool = False
    """The model makes a mask even where none is needed (Falcon: ALiBi might be added to it)."""
    picked_heads: bool = False
    """Queries, keys and values are picked out of their common projection by index, which copies them (Falcon's _split_heads)."""
    spread_heads: bool = False
    """Keys and values are spread over all heads before they are turned (Falcon's new architecture)."""
    clipped: bool = False
    """Query, key and value are clamped after their projection where the config says so (OLMo, MPT: clip_qkv)."""

    @property
    def query_width(self) -> int:
        """Width of all queries: what attention itself works on, whatever projections made them."""
        return self.heads * self.head_dim

    @property
    def key_width(self) -> int:
        """Width of all keys; with latent attention those of every head after widening."""
        return self.kv_heads * self.head_dim

    @property
    def value_width(self) -> int:
        """Width of all values."""
        return self.kv_heads * (self.value_head_dim or self.head_dim)

    @property
    def output_width(self) -> int:
        """Width of the attention's output, which the output projection reads."""
        return self.heads * (self.value_head_dim or self.head_dim)


@dataclass(frozen=True)
class FeedForward:
    """The feed-forward part of a block: one MLP, or experts of which each token visits a few."""

    width: int
    """Inner width of the MLP; with experts that of one expert."""
    gated: bool = True
    activation: str = "silu"
    """Its name in transformers' ACT2FN, such as silu, gelu, gelu_pytorch_tanh, gelu_new, relu, relu2."""
    inputs: tuple[str, ...] = ("gate_proj", "up_proj")
    """Linear modules that read the block's normalised input; of a gated MLP a single one makes gate and up at once."""
    output: str = "down_proj"
    bias: bool = False
    dropout: float = 0.0
    """Dropout between activation and second linear, as config.json sets it."""
    experts: int = 0
    experts_per_token: int = 0
    shared_width: int = 0
    """Inner width of the expert that every token visits beside the routed ones; 0: there is none. Its modules are named like a dense MLP's."""
    shared_gate: bool = False
    """The shared expert's output is multiplied by a sigmoid of its own (Qwen2-MoE)."""
    experts_are_linear: bool = False
    """Experts and router are linear modules (transformers 4): adapted by all-linear and quantised. Since transformers 5 they are one
    three-dimensional parameter each for gate and up, and for down."""
    experts_are_adapted: bool = False
    """PEFT adapts these parameters, and the router, under the names of transformers 4 (`Tensor.targets`); it then leaves linear modules of
    the same names without adapters."""
    scores_float32: bool = False
    """The router's scores stay float32, and so does what they multiply (Mixtral, DeepSeek); others cast them."""
    router_float32: bool = False
    """The router's product is computed in float32 from a float32 copy of its input (DeepSeek, GLM-4.5)."""
    every_expert_sees_every_token: bool = False
    """Llama 4 runs each expert over all tokens and multiplies what was not routed to it by zero."""
    expert_bias: bool = False

    @property
    def fused_activation(self) -> bool:
        """Whether the activation function is one kernel; gelu_new and its kind are written out and keep about three more tensors."""
        return self.activation not in WRITTEN_OUT_ACTIVATIONS


WRITTEN_OUT_ACTIVATIONS = frozenset(
    {"gelu_new", "gelu_fast", "gelu_python", "gelu_python_tanh", "quick_gelu", "gelu_accurate"}
)
"""Several elementwise kernels each (transformers 5.23, activations.py)."""


@dataclass(frozen=True)
class Block:
    """One kind of layer and how many of them the model has."""

    copies: int
    attention: Attention
    feed_forward: FeedForward
    tensors: tuple[Tensor, ...]
    """Of one copy of the block."""
    norm: NormKind = NormKind.RMS
    placement: NormPlacement = NormPlacement.BEFORE
    norms: int = 2
    """Norms of the residual stream's width: 4 where they are around, 1 where parallel attention and MLP share one."""
    norm_weights: bool = True
    """False: the norms have no weight (OLMo 1)."""
    parallel: bool = False
    """Attention and MLP both read the block's input and are added to it together (GPT-J, GPT-NeoX, Phi 1 and 2, Falcon, Cohere)."""
    residual_dropout: float = 0.0
    """Dropout of the outputs of attention and MLP, as config.json sets it."""
    residual_scaled: bool = False
    """Outputs of attention and MLP are multiplied by a number before they are added to the stream (Granite)."""
    traced: TracedActivations | None = None
    """Of an architecture without a table: attention and feed-forward part are then Llama's, of about this size (traced.py)."""

    @cached_property
    def parameters(self) -> int:
        """Parameters of one copy."""
        return sum(tensor.total for tensor in self.tensors)

    @cached_property
    def quantisable_parameters(self) -> int:
        """Weights of one copy that bitsandbytes quantises."""
        return sum(tensor.total for tensor in self.tensors if tensor.quantisable)
