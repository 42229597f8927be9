"""Models that are cut into stages over GPUs, layer by layer: the last stage has the head and the loss, the first one the most micro-batches."""

from __future__ import annotations

import re
from dataclasses import replace

from accuracy.rows import Row
from finetune_operator.memory.activations.model import passes
from finetune_operator.memory.architecture import EMBEDDING_NAME, Architecture, Head
from finetune_operator.memory.workload import Workload


def stages_of(row: Row) -> int:
    """Return into how many stages the row's model is cut: the column `pp`, or every GPU under transformers' device_map."""
    if re.search(r"device_map|naive pipeline", row.text("sharding").lower()) and not is_replicated(row):
        return row.whole("n_gpus") or 1
    return row.whole("pp") or 1


def is_replicated(row: Row) -> bool:
    """Return whether the run's own name says DDP, so that every GPU has the whole model (ms-swift's scripts/benchmark, `ddp`)."""
    return re.search(r"\bddp\b", row.name.lower()) is not None


def last_stage(architecture: Architecture, stages: int) -> Architecture:
    """Return the last of `stages` equal parts: its share of the layers (at least one), last norm and head."""
    if stages <= 1:
        return architecture
    outer = tuple(
        tensor for tensor in architecture.outer if tensor.name != EMBEDDING_NAME or architecture.tied_embeddings
    )
    return replace(_share_of_layers(architecture, stages), outer=outer)


def first_stage(architecture: Architecture, stages: int) -> Architecture:
    """Return the first of `stages` equal parts: the embedding and its share of the layers."""
    outer = tuple(tensor for tensor in architecture.outer if tensor.name == EMBEDDING_NAME)
    return replace(_share_of_layers(architecture, stages), outer=outer, head=Head.NONE, tied_embeddings=False)


def _share_of_layers(architecture: Architecture, stages: int) -> Architecture:
    blocks = tuple(replace(block, copies=max(1, -(-block.copies // stages))) for block in architecture.blocks)
    return replace(architecture, blocks=blocks)


def waiting_bytes(first: Architecture, workload: Workload, stages: int) -> int:
    """Return what the first stage keeps of the micro-batches that went on to later stages (bytes).

    One forward, one backward: as many are under way as there are stages (arXiv 2104.04473, §2.2.1).
    """
    kept = passes(first, workload).kept
    return (stages - 1) * (kept.of(workload.local_tokens, workload.pairs) - kept.fixed)
