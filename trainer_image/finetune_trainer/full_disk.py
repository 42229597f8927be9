"""Errors that mean that the local disk is full: libraries say it in many ways, and PyTorch's own file writer not at all."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Final

from finetune_operator.api.exit_codes import ExitCode
from finetune_trainer.failures import TrainerFailure

_NUMBERS: Final = (errno.ENOSPC, errno.EDQUOT)
_TEXTS: Final = tuple(os.strerror(number) for number in _NUMBERS)
_NEARLY_NOTHING: Final = 1024**2
"""Bytes. torch.save says only that a write failed; files of a checkpoint that fit no more leave less than this."""


def disk_failure(folder: Path, what: str, error: Exception) -> TrainerFailure | None:
    """Return the failure when `error`, met while `what` was written to `folder`, comes of a full disk; else None."""
    chain: list[BaseException] = [error]
    while (before := chain[-1].__cause__ or chain[-1].__context__) is not None and before not in chain:
        chain.append(before)
    place = next((path for path in (folder, *folder.parents) if path.exists()), Path("/"))
    state = os.statvfs(place)
    free = state.f_bavail * state.f_frsize
    is_full = any(
        (isinstance(each, OSError) and each.errno in _NUMBERS) or any(text in str(each) for text in _TEXTS)
        for each in chain
    )
    if not is_full and free >= _NEARLY_NOTHING:
        return None
    return TrainerFailure(
        ExitCode.DISK_FULL,
        f"the pod's local disk is full: {what} could not be written to {folder} ({free} of {state.f_blocks * state.f_frsize} bytes are left); the "
        "checkpoints in the bucket are whole, and the next attempt goes on from the newest; give the pods more ephemeral storage if it recurs",
    )
