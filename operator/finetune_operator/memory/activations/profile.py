"""What a layer's programme needs, as functions of the batch: what playing it leaves."""

from __future__ import annotations

from dataclasses import dataclass, replace

from finetune_operator.memory.activations.size import NOTHING, Size


@dataclass(frozen=True)
class Profile:
    """What a programme needs, all without its weights."""

    kept: Size
    """Tensors that wait for the backward pass. Their fixed part are casts of weights (autocast)."""
    forward: tuple[Size, ...]
    """Points of the forward pass: tensors kept so far, and those that a later operation or the calling function still holds."""
    recomputed: tuple[Size, ...]
    """The same of a checkpoint's second forward pass, without the programme's input; it stops where the last tensor is saved
    (torch.utils.checkpoint's early stop)."""
    backward: tuple[Size, ...]
    """Points of the backward pass: tensors still kept, gradients of activations, gradients of this programme's weights so far."""
    weight_gradients: int
    """Bytes of gradients that are there when the programme has run backwards."""
    accumulating: tuple[Size, ...] = ()
    """`backward` where gradients of earlier micro-batches exist, to which new ones are added and so freed."""
    keeps_input: bool = False
    """Whether `kept` includes the programme's input."""
    cached: int = 0
    """Bytes of casts of trained weights in autocast's cache, which lives as long as the forward pass."""
    held: Size = NOTHING
    """The part of `kept` that the backward pass does not free."""

    def again(self) -> Profile:
        """Return the programme of a later micro-batch of the same step."""
        return replace(self, backward=self.accumulating, weight_gradients=0)
