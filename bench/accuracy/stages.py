"""Models that are cut into stages over GPUs, layer by layer: the GPU with the last stage has the head and the loss, and usually the most."""

from __future__ import annotations

import re
from dataclasses import replace

from accuracy.rows import Row
from finetune_operator.memory.architecture import EMBEDDING_NAME, Architecture


def stages_of(row: Row) -> int:
    """Return into how many stages the row's model is cut: the column `pp`, or every GPU under transformers' device_map."""
    if re.search(r"device_map|naive pipeline", row.text("sharding").lower()):
        return row.whole("n_gpus") or 1
    return row.whole("pp") or 1


def last_stage(architecture: Architecture, stages: int) -> Architecture:
    """Return the last of `stages` equal parts: its share of the layers (at least one), last norm and head."""
    if stages <= 1:
        return architecture
    blocks = tuple(replace(block, copies=max(1, -(-block.copies // stages))) for block in architecture.blocks)
    outer = tuple(
        tensor for tensor in architecture.outer if tensor.name != EMBEDDING_NAME or architecture.tied_embeddings
    )
    return replace(architecture, blocks=blocks, outer=outer)
