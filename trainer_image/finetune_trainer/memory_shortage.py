"""What a rank held when its GPU had no more memory, as far as the operator's next plan can use it."""

from __future__ import annotations

import re
from typing import Final

from finetune_operator.api.exit_codes import ExitCode
from finetune_operator.api.plan import Phase
from finetune_operator.api.progress import MemoryShortage
from finetune_trainer.measure import Memory

_REQUEST: Final = re.compile(r"[Tt]ried to allocate (\d+(?:\.\d+)?) ?([KMG]i)?B")
_UNITS: Final = {None: 1, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30}


def requested_bytes(text: str) -> int:
    """Return what torch's out-of-memory error says it tried to allocate; 0 where it says nothing of it."""
    found = _REQUEST.search(text)
    return round(float(found[1]) * _UNITS[found[2]]) if found else 0


def shortage_of(error: BaseException, phase: Phase, memory: Memory, held_bytes: int) -> MemoryShortage:
    """Return what is known after an out-of-memory error.

    Args:
        error: Torch's error; its text names the request.
        phase: Where the rank was.
        memory: The allocator's figures after the error: it gives its cache back before it fails.
        held_bytes: What is in use of the whole device.
    """
    return MemoryShortage(
        held_bytes=held_bytes,
        allocated_bytes=memory.allocated,
        reserved_bytes=memory.reserved,
        requested_bytes=requested_bytes(str(error)),
        phase=phase,
    )


def shortage_at(error: BaseException, code: ExitCode, phase: Phase | None) -> MemoryShortage | None:
    """Return what this process knows after an error of that exit code in that phase; None where no GPU ran out of memory."""
    if code is not ExitCode.GPU_OUT_OF_MEMORY or phase is None:
        return None
    import torch

    from finetune_trainer.measure import device_memory, held_memory

    return shortage_of(error, phase, device_memory(torch), held_memory(torch))
