"""Which head a model ends with for a workload: words or labels, which loss, trained or frozen. Its programme: activations/head.py."""

from __future__ import annotations

from dataclasses import replace

from finetune_operator.memory.activations.head import OutputHead, head_profile
from finetune_operator.memory.activations.mode import LayerMode, has_wide_stream, layer_mode
from finetune_operator.memory.activations.profile import Profile
from finetune_operator.memory.architecture import Architecture, Head
from finetune_operator.memory.kinds import AttentionKernel, Goal, LossKind, Quantization, Tuning
from finetune_operator.memory.loss import head_calls
from finetune_operator.memory.workload import Workload

CLASSES = 2
"""Outputs of a classification whose number of labels is not known."""


def programme_of_head(architecture: Architecture, workload: Workload) -> Profile:
    """Return the programme behind the last layer."""
    mode = layer_mode(
        workload,
        trains_weights=_trains_head(architecture, workload),
        input_differentiable=True,
        normed_embedding=has_wide_stream(architecture, workload),
    )
    head = output_head(architecture, workload)
    return head_profile(
        head,
        head_mode(mode, adapted=head.transform),
        loss_kind(architecture, workload),
        several_tiles=workload.has_several_tiles,
    )


def head_mode(mode: LayerMode, *, adapted: bool = False) -> LayerMode:
    """The head's gradient stays whole until the root unit is reduced, whatever the sharding; attention and adapters are none of its business.

    `adapted`: but for a masked-language head's linear layer, which carries an adapter as the layers' do.
    """
    found = replace(
        mode,
        keeps_gradients=True,
        quantized=mode.quantized and mode.software.quantizes_head,
        kernel=AttentionKernel.SDPA,
        masked=False,
    )
    return found if adapted else replace(found, tuning=Tuning.FULL, targets=(), rank=0, drops=False)


def _trains_head(architecture: Architecture, workload: Workload) -> bool:
    if workload.tuning is Tuning.FREEZE:
        return not (architecture.tied_embeddings and workload.freezes_tied_head)
    return workload.tuning is Tuning.FULL or workload.trained_embeddings


def has_words(architecture: Architecture, workload: Workload) -> bool:
    """Whether the head's outputs are the vocabulary's words."""
    is_label = architecture.head in (Head.SEQUENCE_CLASSIFICATION, Head.TOKEN_CLASSIFICATION, Head.NONE)
    return not is_label and workload.goal not in (Goal.REWARD, Goal.CLASSIFICATION, Goal.EMBEDDING)


def loss_kind(architecture: Architecture, workload: Workload) -> LossKind:
    """Return how the loss is computed: heads of a few labels, and of encoders, always make whole logits."""
    if not has_words(architecture, workload) or architecture.head is Head.MASKED_LM:
        return LossKind.FULL_LOGITS
    return workload.loss


def output_head(architecture: Architecture, workload: Workload) -> OutputHead:
    """Return what the head's programme depends on."""
    words = has_words(architecture, workload)
    last = architecture.blocks[-1]
    return OutputHead(
        hidden=architecture.hidden,
        vocabulary=architecture.vocabulary if words else architecture.labels or CLASSES,
        norm=last.norm,
        final_norm=architecture.final_norm,
        norm_weights=last.norm_weights,
        transform=words and architecture.head is Head.MASKED_LM,
        quantized_transform=workload.quantization is not Quantization.NONE,
        first_token=not words and not last.attention.causal and architecture.head is not Head.TOKEN_CLASSIFICATION,
        widens=(architecture.head is not Head.MASKED_LM or architecture.model_type == "modernbert")
        and not workload.software.unwidened_logits,
        scaled=words and architecture.logits_scaled,
        capped=words and architecture.logits_capped,
        calls=head_calls(workload),
    )
