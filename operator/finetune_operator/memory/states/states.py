"""Bytes of weights, gradients and optimizer state in one process: what stays from step to step, and what a strategy gathers and reduces."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class States:
    """Bytes that one process holds. Whole numbers, so that components add up exactly."""

    trainable: int
    """Trained parameters of the whole model (elements, not bytes)."""
    resident_weights: int
    """What stays: the process's own share, a reference model and reward models included."""
    root_weights: int
    """FSDP and ZeRO-3: the root unit (embeddings, head), whole in the compute type from forward to the end of backward."""
    embedding_weights: int
    """FSDP 2 as accelerate sets it up: the frozen embedding, whole in the compute type at the first layer's passes. Where it is the head too, it is
    among `root_weights` as well, and stays whole in between."""
    head_in_loss: bool
    """The same: a frozen head is whole from the last hidden state to its gradient only, and not while layers run backwards."""
    layer_weights: int
    """FSDP and ZeRO-3: one layer, whole in the compute type; a second one while it is prefetched."""
    gradients: int
    """All gradients of this process, as they are at the end of backward."""
    accumulated_gradients: int
    """Gradients of earlier micro-batches, while the next one is computed; 0 with one micro-batch per step."""
    optimizer: int
    buckets: int
    """Gradients on their way to other processes, for the whole step (DDP, ZeRO)."""
    layer_reduction: int
    """FSDP and ZeRO-3: one layer's whole gradient and its reduction buffer, inside backward."""
    root_reduction: int
    """The same of the root unit, at the end of backward."""
    loaded_weights: int
    """Weights in this process while the model is being loaded and not yet sharded."""
    gathered_weights: int
    """FSDP2 and ZeRO-3: layers that stay whole from forward to backward, because they are not resharded."""
    step_temporaries: int
    """Inside the optimizer's step, beside gradients and states."""
    dequantised_weights: int
    """One linear weight widened to the compute type, at any moment of forward and backward."""
    adapter_temporaries: int
    """DoRA: what the norm of the largest adapted weight takes, at any moment of forward and backward."""
    retained_inputs: int
    """FSDP 1 over frozen layers with reentrant checkpoints: inputs of the layers behind the first one and their gradients, when the first
    layer's backward runs; without the gradient that arrives there."""
    host: int
    """States that live in host memory: offloaded, or paged out when the GPU is full."""
    disk: int = 0
    """States in files on local disk (offload nvme)."""
