"""The model's layers as programmes: which layers take part in the backward pass, what each keeps, in the order of the forward pass."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

from finetune_operator.api.compatibility import Checkpointing
from finetune_operator.memory.activations.attention import STATISTICS
from finetune_operator.memory.activations.layer import layer_profile
from finetune_operator.memory.activations.mode import FLOAT32, has_wide_stream, layer_mode, residual_bytes
from finetune_operator.memory.activations.model_head import has_words, loss_kind, output_head, programme_of_head
from finetune_operator.memory.activations.profile import Profile
from finetune_operator.memory.activations.size import NOTHING, Size, total
from finetune_operator.memory.architecture import Architecture
from finetune_operator.memory.blocks import Attention, Block, Positions
from finetune_operator.memory.derived import derived
from finetune_operator.memory.kinds import AttentionKernel, LossKind, Tuning
from finetune_operator.memory.workload import Workload

INDICES = 8
"""Token ids, labels and masks are 64-bit whole numbers."""


@dataclass(frozen=True)
class Segment:
    """Layers in a row that are computed alike."""

    copies: int
    profile: Profile
    kept: Size
    """What each keeps from the forward to its backward pass: its activations, or its input with checkpointing."""
    recomputed: bool

    @property
    def input_beside(self) -> Size:
        """The input that checkpointing keeps, beside the tensors of the layer that is being computed again; most keep it themselves."""
        return self.kept if self.recomputed and not self.profile.keeps_input else NOTHING


@dataclass(frozen=True)
class Passes:
    """Forward and backward pass of one micro-batch."""

    segments: tuple[Segment, ...]
    """Layers with a backward pass, first layer first. Those below a frozen model's first trained layer are not among them."""
    head: Profile
    outside: Size
    """What waits beside the layers' tensors: indices, rotary tables, masks, logits that the loop holds."""
    stream: int
    """Bytes per token of the residual stream, and so of its gradient."""
    masks: Size
    """Masks that layers share, while the layers run forwards; with checkpointing `outside` has them."""
    words: int
    """Of the head's vocabulary; 0 where its outputs are labels."""
    earlier: Size
    """What is there only while this micro-batch runs forwards: what is left of the one before, and keys and values that the model returns."""

    @cached_property
    def cast_weights(self) -> int:
        """Bytes of the casts of recomputed layers' weights: autocast keeps each until the forward pass is over, checkpoints or not."""
        return sum(part.copies * part.profile.cached for part in self.segments if part.recomputed)

    @cached_property
    def kept(self) -> Size:
        """Everything that waits for the backward pass when the last layer has run forwards."""
        layers = total(segment.kept.times(segment.copies) for segment in self.segments)
        return layers.plus(self.outside)

    def below(self, segment: Segment) -> Size:
        """What waits beside the tensors of the last layer, of this segment, while that runs backwards."""
        return self.kept.minus(segment.kept).plus(segment.input_beside)


@derived(
    without=(
        "micro_batch",
        "accumulation",
        "processes",
        "strategy",
        "syncs_every_batch",
        "loads_whole",
        "efficient_loading",
    ),
    but=("has_padding_mask", "accumulates", "is_sharded", "casts_weights", "has_several_tiles"),
)
def passes(architecture: Architecture, workload: Workload) -> Passes:
    """Return the programmes of a micro-batch."""
    segments, head = _segments(architecture, workload), programme_of_head(architecture, workload)
    return Passes(
        segments=segments,
        head=head,
        outside=_outside(architecture, workload),
        stream=architecture.hidden * residual_bytes(workload, normed_embedding=has_wide_stream(architecture, workload)),
        masks=NOTHING if workload.checkpointing is not Checkpointing.NONE else _masks(architecture, workload),
        words=architecture.vocabulary if has_words(architecture, workload) else 0,
        earlier=(_held(segments, head) if workload.software.keeps_graph else NOTHING).plus(
            _cache(architecture, workload)
        ),
    )


def _cache(architecture: Architecture, workload: Workload) -> Size:
    """Keys and values that the model returns. Without checkpointing the layers keep the same storage."""
    if not workload.software.returns_cache or workload.checkpointing is Checkpointing.NONE:
        return NOTHING
    widens = workload.autocasts and has_wide_stream(architecture, workload)
    width = FLOAT32 if widens else workload.numerics.compute
    parts = ((block.attention, block.copies) for block in architecture.blocks)
    return Size(width * sum(n * (part.query_width + part.key_width + part.value_width) for part, n in parts))


def _held(segments: tuple[Segment, ...], head: Profile) -> Size:
    """What the nodes of a graph hold when they have run backwards; layers that are computed again have a graph of their own, which is gone."""
    layers = (segment.profile.held.times(segment.copies) for segment in segments if not segment.recomputed)
    return total((*layers, head.held))


def _segments(architecture: Architecture, workload: Workload) -> tuple[Segment, ...]:
    frozen = _frozen_layers(architecture, workload)
    found: list[Segment] = []
    position = 0
    for block in architecture.blocks:
        below = min(max(frozen - position, 0), block.copies)
        copies = block.copies - below
        if copies and not found and not _input_differentiable(workload):
            found.append(_segment(architecture, block, workload, 1, input_differentiable=False))
            copies -= 1
        plain = copies - copies // workload.software.checkpointed_every
        if plain and workload.checkpointing is not Checkpointing.NONE:
            kept_whole = replace(workload, checkpointing=Checkpointing.NONE)
            found.append(_segment(architecture, block, kept_whole, plain, input_differentiable=True))
            copies -= plain
        if copies:
            found.append(_segment(architecture, block, workload, copies, input_differentiable=True))
        position += block.copies
    return tuple(found)


def _frozen_layers(architecture: Architecture, workload: Workload) -> int:
    """Layers below the first trained one: autograd does not reach them."""
    if workload.trained_embeddings:
        return 0
    if workload.tuning is Tuning.FREEZE:
        return max(0, architecture.layers - workload.trained_layers)
    return workload.software.bare_layers


def _input_differentiable(workload: Workload) -> bool:
    """Whether the first layer's input has a gradient.

    Trained embeddings, virtual tokens, or checkpointing of adapters, for which transformers' Trainer calls enable_input_require_grads.
    """
    if workload.tuning in (Tuning.FULL, Tuning.PROMPT) or workload.trained_embeddings:
        return True
    return not workload.trains_base and workload.checkpointing is not Checkpointing.NONE


def _segment(
    architecture: Architecture, block: Block, workload: Workload, copies: int, *, input_differentiable: bool
) -> Segment:
    trains = workload.tuning in (Tuning.FULL, Tuning.FREEZE, Tuning.SPECTRUM)
    mode = layer_mode(
        workload,
        trains_weights=trains,
        input_differentiable=input_differentiable,
        normed_embedding=has_wide_stream(architecture, workload),
        masked=has_mask(block.attention, workload),
        # bitsandbytes leaves subclasses of torch.nn.Linear alone (Falcon's).
        quantizable=block.quantisable_parameters > 0,
    )
    profile = layer_profile(architecture.hidden, block, mode)
    if workload.tuning is Tuning.SPECTRUM:
        without = layer_profile(architecture.hidden, block, replace(mode, trains_weights=False))
        profile = _mixed(profile, without, workload.trained_fraction)
    if workload.checkpointing is Checkpointing.NONE:
        return Segment(copies, profile, profile.kept, recomputed=False)
    waiting = NOTHING if workload.software.offloads_activations else Size(architecture.hidden * mode.stream)
    if workload.software.saves_products:
        waiting = waiting.plus(_saved_products(block, mode.compute))
    return Segment(copies, profile, waiting, recomputed=True)


def _saved_products(block: Block, width: int) -> Size:
    """Outputs of attention and of every second product, in the order of the forward pass; the last one's is the next layer's input."""
    attention, part = block.attention, block.feed_forward
    if len(attention.inputs) == 3:
        projections = [attention.query_width, attention.key_width, attention.value_width]
    else:
        projections = [attention.query_width + attention.key_width + attention.value_width]
    # The output projection's width is never one of those kept.
    outputs = [*projections, 0, *(part.width for _ in part.inputs)]
    return Size(width * (sum(outputs[::2]) + attention.output_width) + STATISTICS * attention.heads)


def has_mask(part: Attention, workload: Workload) -> bool:
    """Whether SDPA gets a mask: for padding, for a window that is narrower than the rows, or because the model always makes one (Falcon)."""
    if workload.attention is AttentionKernel.FLASH:
        return False
    return workload.has_padding_mask or part.always_masked or 0 < part.window < workload.sequence_length


def _mixed(trained: Profile, frozen: Profile, share: float) -> Profile:
    """A layer of which a share of the weights is trained: tensors kept for weights' gradients count by that share."""

    def mix(one: Size, other: Size) -> Size:
        return Size(*(round(share * a + (1 - share) * b) for a, b in zip(one, other, strict=True)))

    kept = mix(trained.kept, frozen.kept)
    saved = Size(token=trained.kept.token - kept.token)
    return Profile(
        kept=kept,
        forward=tuple(point.minus(saved) for point in trained.forward),
        recomputed=tuple(point.minus(saved) for point in trained.recomputed),
        backward=tuple(
            Size(point.token - saved.token, point.pair, round(share * point.fixed)) for point in trained.backward
        ),
        weight_gradients=round(share * trained.weight_gradients),
        cached=round(share * trained.cached),
    )


def _outside(architecture: Architecture, workload: Workload) -> Size:
    block = architecture.main_block
    found = Size(token=2 * INDICES + (INDICES if workload.has_padding_mask else 0))
    if block.attention.positions is Positions.ROTARY:
        # Cosines and sines of one sequence: all rows share them.
        width = round(block.attention.head_dim * block.attention.rotary_share)
        stream = residual_bytes(workload, normed_embedding=has_wide_stream(architecture, workload))
        found = found.plus(Size(fixed=2 * stream * width * workload.sequence_length))
    if workload.noisy_embeddings:
        found = found.plus(Size(2 * architecture.hidden * residual_bytes(workload)))
    if workload.checkpointing is not Checkpointing.NONE:
        found = found.plus(_masks(architecture, workload))
    if workload.software.holds_logits and loss_kind(architecture, workload) not in (LossKind.CHUNKED, LossKind.LIGER):
        found = found.plus(Size(token=output_head(architecture, workload).vocabulary * _returned_width(workload)))
    return found.plus(_embedding(architecture, workload))


def _embedding(architecture: Architecture, workload: Workload) -> Size:
    """What lies between the words' embedding and the first layer, where gradients go so far: a norm's input, a dropout's mask.

    With adapters the embedding's output is a leaf that enable_input_require_grads made: autograd holds it, beside what is made of it.
    """
    if not _input_differentiable(workload):
        return NOTHING
    trained, hidden = workload.tuning is Tuning.FULL, architecture.hidden
    width = workload.numerics.trained if trained and workload.shards == 1 else workload.numerics.base
    if trained and workload.shards > 1:
        width = workload.numerics.compute
    summed = architecture.main_block.attention.positions is not Positions.ROTARY
    changed = architecture.embedding_norm or architecture.embedding_dropout or architecture.embedding_scaled or summed
    found = Size(0 if trained or not changed else hidden * width)
    if architecture.embedding_norm:
        read = 4 if workload.autocasts else width
        reads_leaf = not trained and not summed and read == width
        found = found.plus(Size((0 if reads_leaf else hidden * read) + 8))
    if architecture.embedding_dropout:
        found = found.plus(Size(hidden))
    return found


def _masks(architecture: Architecture, workload: Workload) -> Size:
    """Of every kind of mask that some layer takes one exists, for all of its layers: variables of the model's forward function."""
    parts = (block.attention for block in architecture.blocks)
    kinds = {(part.window, _mask_width(architecture, part, workload)) for part in parts}
    return Size(pair=sum(width for _, width in kinds))


def _mask_width(architecture: Architecture, part: Attention, workload: Workload) -> int:
    """Bytes per pair of a mask that layers share; checkpointing keeps it as an argument of theirs. Eager attention adds it to the scores."""
    if workload.attention is AttentionKernel.EAGER or (workload.attention is AttentionKernel.SDPA and not part.sdpa):
        return residual_bytes(workload, normed_embedding=has_wide_stream(architecture, workload))
    return 1 if has_mask(part, workload) else 0


def _returned_width(workload: Workload) -> int:
    """Accelerate widens a model's outputs to float32 under autocast; transformers up to 4.45 returned float32 logits anyway."""
    if workload.numerics.autocast or workload.software.shifts_logits:
        return 4
    return workload.numerics.compute
