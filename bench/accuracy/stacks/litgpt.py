"""litgpt (Lightning-AI/litgpt) and its forerunner lit-gpt at 8641822 (2023-11).

Facts, with where they were read:

- The output head is never tied to the embedding (litgpt/scripts/convert_hf_checkpoint.py copies the weight).
- finetune/lora.py calls the model with lm_head_chunk_size=128 and holds the list of logits, which Lightning's precision plugin makes float32
  (fabric/plugins/precision/half.py, bitsandbytes.py: convert_output), beside their log-softmax: 8 bytes per logit. While the model runs
  again, the list of the micro-batch before is still there: 10. finetune/full.py makes whole logits.
- `loss` names the last micro-batch's graph until the next one's loss exists. Its nodes hold what they keep as attributes: the inputs of
  frozen 4-bit linears in bitsandbytes 0.41 and 0.42 (pyproject.toml; autograd/_functions.py, MatMul4Bit: ctx.tensors). Where the longest
  sample is run first and only once (2023), no batch as long follows it.
- Lightning 2.3, fabric/plugins/precision/bitsandbytes.py: every torch.nn.Linear is quantised, the head too, from half precision, so that a
  bfloat16 product first makes a half-precision and then a bfloat16 copy of the weight, once per chunk of logits.
- model.py: query, key and value come from one linear, of which SDPA keeps views; GELU is one kernel, and there is no residual dropout.
- lora.py: adapters on query and value alone are copied into the width of all three, and the copy keeps its source (traced with litgpt 0.4.2:
  44.3 h bytes per layer and token of Llama 2 with query and value, 4 h of them this copy). Dropout 0.05 before adapters by default;
  torch.optim.AdamW (foreach), with bitsandbytes its PagedAdamW.
- model.py: keys and values are expanded to every query head before SDPA, which gets no mask in training; softcapped attention (Gemma 2)
  is written out.
- adapter.py: from the third layer on, queries attend to a prefix of ten learned tokens as well; adapter_v2.py: every linear's output is
  multiplied by a vector, and norms are trained.
- Several GPUs: FSDP 1 with one unit per block that mixes frozen and trained weights, activation checkpointing, and no_sync while gradients
  accumulate (finetune/lora.py): gradients of everything, unsharded.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from accuracy.rows import Row
from accuracy.stacks.stack import Stack, read
from finetune_operator.memory.architecture import Architecture
from finetune_operator.memory.blocks import Block, NormKind
from finetune_operator.memory.kinds import AttentionKernel, LossKind, Optimizer, Quantization, Tuning
from finetune_operator.memory.workload import Workload

DROPOUT: Final = 0.05
ADAPTER_START: Final = 2
"""adapter.py, Config.adapter_start_layer: layers below have no prefix."""
JOINED: Final = "attn"
"""What litgpt calls the linear of query, key and value; with grouped heads it copies them apart, as separate linears do."""


def _workload(row: Row, architecture: Architecture) -> Workload | str:
    workload = read(row, architecture)
    if isinstance(workload, str):
        return workload
    is_adapter = row.method in ("adapter", "adapter_v2")
    quantized = workload.quantization is not Quantization.NONE
    software = replace(
        workload.software,
        repeats_keys=True,
        quantized_inputs_kept=quantized,
        quantizes_head=quantized,
        widens_in_half=quantized,
        keeps_graph=not row.text("seq_kind").lower().startswith("max (longest"),
        scaled_outputs=row.method == "adapter_v2",
        trained_norms=row.method == "adapter_v2",
        attends_prefix=is_adapter,
        bare_layers=ADAPTER_START if row.method == "adapter" else 0,
        padded_share=_padded_share(row, architecture),
        frozen_gradients=workload.flat_parameters and not workload.trains_base,
    )
    return replace(
        workload,
        targets=() if is_adapter else workload.targets,
        loss=LossKind.FULL_LOGITS if workload.trains_base else LossKind.HELD_CHUNKS,
        dropout=DROPOUT if workload.tuning is Tuning.LORA else 0.0,
        optimizer=Optimizer.ADAMW_FOREACH if workload.optimizer is Optimizer.ADAMW else workload.optimizer,
        attention=AttentionKernel.EAGER if architecture.model_type == "gemma2" else workload.attention,
        packing=True,  # no padding mask: litgpt's attention is causal only
        software=software,
    )


def _padded_share(row: Row, architecture: Architecture) -> float:
    """Return which share of the adapted projection's outputs has adapters where not all of query, key and value do."""
    words = row.text("target_modules").lower()
    if "query" not in words or "key" in words:
        return 0.0
    attention = architecture.main_block.attention
    if len(attention.inputs) == 3:
        return 1.0
    query, key = attention.query_width, attention.key_width
    return (query + key) / (query + 2 * key)


def _layout(architecture: Architecture) -> Architecture:
    """One linear for query, key and value (model.py, CausalSelfAttention.attn); no dropout, and GELU as one kernel."""
    return replace(architecture, blocks=tuple(_block(block) for block in architecture.blocks), embedding_dropout=0.0)


def _block(block: Block) -> Block:
    part = block.attention
    attention = replace(part, dropout=0.0, sdpa=True, always_masked=False, picked_heads=False, spread_heads=False)
    tensors = block.tensors
    if len(part.inputs) == 3 and part.heads == part.kv_heads:
        joined = [tensor for tensor in tensors if tensor.name in part.inputs and tensor.linear]
        width = sum(tensor.out_features for tensor in joined)
        inputs = joined[0].in_features
        one = replace(joined[0], name=JOINED, shape=(width, inputs), out_features=width)
        biases = tuple(tensor for tensor in tensors if tensor.name in part.inputs and not tensor.linear)
        rest = tuple(tensor for tensor in tensors if tensor.name not in part.inputs)
        tensors = (one, *(replace(bias, name=JOINED) for bias in biases), *rest)
        attention = replace(attention, inputs=(JOINED,))
    activation = block.feed_forward.activation
    feed_forward = replace(
        block.feed_forward, dropout=0.0, activation="gelu" if activation.startswith("gelu") else activation
    )
    return replace(block, attention=attention, feed_forward=feed_forward, tensors=tensors, residual_dropout=0.0)


def _layout_of_forerunner(architecture: Architecture) -> Architecture:
    """The same, and RMSNorm multiplies its weight in float32, as Gemma's does (rmsnorm.py of 2023)."""
    found = _layout(architecture)
    blocks = tuple(
        replace(block, norm=NormKind.RMS_FLOAT32) if block.norm is NormKind.RMS else block for block in found.blocks
    )
    return replace(found, blocks=blocks)


STACK: Final = Stack(name="litgpt", pattern=r"litgpt", workload=_workload, ties_embeddings=False, layout=_layout)
FORERUNNER: Final = Stack(
    name="lit-gpt", pattern=r"lit-gpt", workload=_workload, ties_embeddings=False, layout=_layout_of_forerunner
)
