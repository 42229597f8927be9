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
    if is_mapped(row):
        return row.whole("n_gpus") or 1
    return row.whole("pp") or 1


def is_mapped(row: Row) -> bool:
    """Return whether transformers' device_map spreads the model over the GPUs."""
    return re.search(r"device_map|naive pipeline", row.text("sharding").lower()) is not None and not is_replicated(row)


def is_replicated(row: Row) -> bool:
    """Return whether the run's own name says DDP, so that every GPU has the whole model (ms-swift's scripts/benchmark, `ddp`)."""
    return re.search(r"\bddp\b", row.name.lower()) is not None


def last_stage(architecture: Architecture, stages: int, *, mapped: bool = False) -> Architecture:
    """Return the last of `stages` parts: its share of the layers (at least one), last norm and head. `mapped`: by device_map, else equal."""
    if stages <= 1:
        return architecture
    if mapped:
        share = mapped_layers(architecture, stages) / architecture.layers
        blocks = tuple(replace(block, copies=max(1, round(block.copies * share))) for block in architecture.blocks)
    else:
        blocks = _share_of_layers(architecture, stages).blocks
    outer = tuple(
        tensor for tensor in architecture.outer if tensor.name != EMBEDDING_NAME or architecture.tied_embeddings
    )
    return replace(architecture, blocks=blocks, outer=outer)


def mapped_layers(architecture: Architecture, gpus: int) -> int:
    """Return how many layers the last of `gpus` GPUs gets from `device_map="auto"`.

    accelerate, utils/modeling.py: every GPU but the last takes an equal share and 1.25 layers more (get_balanced_memory); the first keeps
    room for the largest module beside it (infer_auto_device_map, main_devices), which is the embedding.
    """
    layer, embedding = architecture.layer_parameters, architecture.outer[0].total
    room = architecture.parameters / gpus + 1.25 * layer
    first, between = int((room - embedding - max(embedding, layer)) / layer), int(room / layer)
    return max(1, architecture.layers - max(0, first) - (gpus - 2) * between)


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
