"""PEFT's method_comparison/MetaMathQA (huggingface/peft, run.py of 2025-2026): a plain loop over a bfloat16 model with float32 adapters.

Facts, with where they were read:

- The published figure is the largest torch.cuda.memory_reserved() seen right after a training step; generation with its batch of 50 runs
  between steps and the cache is emptied after it, so it counts only as far as it is cached (run.py, train()).
- `outputs` stays bound during `loss.backward()`: the logits live on.
- The cache is emptied after every step, later every tenth (ACCELERATOR_EMPTY_CACHE_SCHEDULE).
- torch.optim.AdamW with default arguments: foreach. No autocast (`autocast_adapter_dtype` keeps adapters in float32).
- Rows are padded to the longest of four, with an attention mask; texts of up to 1,300 characters are kept so that at most 768 tokens result
  (data.py, CHAR_LIMIT). SDPA with a mask repeats keys and values.
- OSF below PEFT 0.21 keeps every adapted weight decomposed beside the weight itself: leading singular vectors frozen, the others trained, all in
  the weight's type; each forward pass multiplies them to a whole weight (peft 0.18 and 0.20, tuners/osf/layer.py, model.py,
  `_cast_adapter_dtype`; utils.py, reconstruct_weight_matrix). Later ones add a low-rank difference to the weight's own product.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Final

from accuracy.rows import Row
from accuracy.stacks.columns import is_older
from accuracy.stacks.stack import Stack
from accuracy.stacks.transformers_trainer import trainer_workload
from finetune_operator.memory.architecture import Architecture
from finetune_operator.memory.workload import Workload

WHOLE_UPDATES: Final = frozenset({"loha", "lokr", "waveft", "fourierft", "c3a", "shira", "hira", "peanut", "bone"})
"""Methods whose layers call F.linear with get_delta_weight() or a product with it (peft 0.21, tuners/*/layer.py); so do Bone and MiSS as `bat`."""

FROZEN_INPUTS: Final = frozenset({"vera", "tinylora", "adamss"})
"""Methods whose first factor is frozen (peft 0.21); so is LoRA's with create_lorafa_optimizer, and MiSS sums parts of its input."""


def _workload(row: Row, architecture: Architecture) -> Workload | str:
    workload = trainer_workload(row, architecture)
    if isinstance(workload, str):
        return workload
    name = row.name.lower()
    whole = row.method in WHOLE_UPDATES or re.search(r"\bbat\b", name) is not None
    frozen = row.method in FROZEN_INPUTS or "lorafa" in name or (row.method == "miss" and not whole)
    decomposes = row.method == "osf" and is_older(row, "peft", (0, 21))
    if decomposes:
        numerics = replace(workload.numerics, trained=workload.numerics.base)
        workload = replace(workload, numerics=numerics, frozen_beside=leading_vectors(architecture, workload))
        whole = True
    software = replace(
        workload.software, holds_logits=True, empties_cache=True, whole_updates=whole, frozen_inputs=frozen
    )
    return replace(workload, varied_lengths=False, software=software)


def leading_vectors(architecture: Architecture, workload: Workload) -> int:
    """Return the elements of singular vectors that are not trained, of every adapted weight: all but `rank` on either side."""
    return sum(
        (min(tensor.in_features, tensor.out_features) - workload.rank)
        * (tensor.in_features + tensor.out_features + 1)
        * tensor.copies
        for tensor in architecture.adapted(workload.targets)
    )


STACK: Final = Stack(name="peft-method-comparison", pattern=r"^peft\+transformers loop", workload=_workload)
