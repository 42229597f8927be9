"""torchtitan (pytorch/torchtitan), December 2024 to 2025: pretraining of Llama with FSDP 2, tensor, context and pipeline parallelism.

Facts, with where they were read:

- parallelisms/parallelize_llama.py: MixedPrecisionPolicy(param_dtype=bfloat16, reduce_dtype=float32) over float32 shards; selective activation
  checkpointing by op keeps attention and every second product, by layer every n-th layer is computed again. With pipeline parallelism
  layers are not resharded between micro-batches.
- parallelisms/pipeline_llama.py: the local batch is cut into as many micro-batches as there are stages.
- train.py: the loss casts the logits of all tokens to float32. components/loss.py compiles it where layers are compiled
  (pull request 1033 of April 2025).
- Tensor parallelism comes with sequence parallelism, and with the loss over shards of the vocabulary.
- float8 matrix products keep weights and optimizer in float32 (torchao/float8).
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Final

from accuracy.rows import Row
from accuracy.stacks.columns import version_of
from accuracy.stacks.stack import Stack, read
from finetune_operator.memory.architecture import Architecture
from finetune_operator.memory.workload import Workload


def _workload(row: Row, architecture: Architecture) -> Workload | str:
    workload = read(row, architecture)
    if isinstance(workload, str):
        return workload
    compiled, selective = row.text("compile") == "1", row.text("grad_ckpt").lower()
    every = re.search(r"every (\d+)", selective)
    software = replace(
        workload.software,
        repeats_keys=not compiled,
        compiled_loss=compiled and _has_compiled_loss(row),
        saves_products="selective" in selective,
        checkpointed_every=int(every.group(1)) if every else 1,
    )
    workload = replace(workload, numerics=replace(workload.numerics, reduces=4), software=software)
    stages = row.whole("pp") or 1
    if stages == 1:
        return workload
    micro_batch = max(1, workload.micro_batch // stages)
    return replace(workload, micro_batch=micro_batch, accumulation=stages, reshards=False)


def _has_compiled_loss(row: Row) -> bool:
    """Return whether the row is of April 2025 or later, by its date or by its torch."""
    date = re.search(r"\b(20\d\d)-(\d\d)", row.text("versions"))
    if date:
        return (int(date.group(1)), int(date.group(2))) >= (2025, 4)
    torch = version_of(row, "torch")
    return torch is not None and torch >= (2, 8)


STACK: Final = Stack(name="torchtitan", pattern=r"torchtitan", workload=_workload)
