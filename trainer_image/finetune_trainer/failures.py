"""Which exit code an error means. Torch is never imported here: `launch` and the tests classify errors without it."""

from __future__ import annotations

import errno
import os
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from finetune_operator.api.exit_codes import ExitCode, meaning_of
from finetune_operator.api.reasons import Reason

LOST_PEER_TEXTS: Final = (
    "Connection closed by peer",
    "Connection reset by peer",
    "Connection refused",
    "Connection was likely closed",
    "Broken pipe",
    "Socket Timeout",
    "Timed out waiting",
    "Application timeout caused pair closure",
    "NCCL communicator was aborted",
    "ncclRemoteError",
    "ncclSystemError",
    "Watchdog caught collective operation timeout",
)
"""What gloo and NCCL say in a RuntimeError when another rank is gone (seen with torch 2.13)."""

GPU_MEMORY_TEXTS: Final = (
    "CUDA out of memory",
    "CUDA error: out of memory",
    "CUDA driver error: out of memory",
    "Cuda failure 2 'out of memory'",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
)
"""What is said where no OutOfMemoryError is raised: by the runtime, the driver (expandable segments), NCCL, cuBLAS and cuDNN."""

_HOST_MEMORY_TEXT: Final = "DefaultCPUAllocator: can't allocate memory"
_LOST_PEER_TYPES: Final = ("DistBackendError", "DistNetworkError", "DistStoreError")
_MESSAGE_LIMIT: Final = 600
_NUMERIC_LIBRARIES: Final = ("/torch/", "/deepspeed/", "/bitsandbytes/")
_QUOTING_PARTS: Final = ("/torch/utils/data/", "/torch/_utils.py")
"""Where torch repeats what a data worker's error said."""


@dataclass(frozen=True)
class Failure:
    """How a process ends: its exit code, the reason that the operator shows, and one or two sentences."""

    exit_code: ExitCode
    reason: Reason
    message: str


class TrainerFailure(Exception):
    """An error that somebody can act on; its message says what, where and what to do, never the content of a row."""

    def __init__(self, exit_code: ExitCode, message: str, reason: Reason | None = None) -> None:
        super().__init__(message)
        self.exit_code = exit_code
        self.reason = reason or meaning_of(exit_code).reason

    def __reduce__(self) -> tuple[type[TrainerFailure], tuple[ExitCode, str, Reason]]:
        """Let ranks send it to one another: an exception would else be made again from its message alone."""
        return type(self), (self.exit_code, str(self), self.reason)


def failure_of(error: BaseException) -> Failure:
    """Return what an error means to the operator; an unknown one is a bug of ours, told without its text: that may quote a row."""
    if isinstance(error, TrainerFailure):
        return Failure(error.exit_code, error.reason, str(error))
    code = getattr(error, "exit_code", None)
    if isinstance(code, ExitCode):  # StorageError and the row readers' errors bring their own
        return Failure(code, getattr(error, "reason", None) or meaning_of(code).reason, str(error))
    names = {kind.__name__ for kind in type(error).__mro__}
    text = str(error)
    if "OutOfMemoryError" in names or (
        isinstance(error, RuntimeError) and any(known in text for known in GPU_MEMORY_TEXTS)
    ):
        return _failure(ExitCode.GPU_OUT_OF_MEMORY, _first_sentences(text))
    if names.intersection(_LOST_PEER_TYPES) or (
        isinstance(error, RuntimeError | ConnectionError) and any(known in text for known in LOST_PEER_TEXTS)
    ):
        return _failure(ExitCode.PEER_LOST, f"another rank went away: {_first_sentences(text)}")
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return _failure(
            ExitCode.DISK_FULL, f"the pod's local disk is full{_where(error)}; give the pods more ephemeral storage"
        )
    if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and _HOST_MEMORY_TEXT in text):
        return Failure(ExitCode.KILLED, Reason.HOST_OUT_OF_MEMORY, "the process could not get more host memory")
    return _failure(
        ExitCode.BUG,
        f"{type(error).__name__}{_harmless_words(error)}{_where(error)}; the log has the calls that led there",
    )


def calls_of(error: BaseException) -> str:
    """Return the calls that led to an error and to those it came from, with their types; texts that may quote a row are left out."""
    chain = [error]
    while True:
        last = chain[-1]
        before = last.__cause__ or (None if last.__suppress_context__ else last.__context__)
        if before is None or before in chain:
            break
        chain.append(before)
    return "\n".join(
        "Calls (most recent last; texts that may quote a row are left out):\n"
        f"{''.join(traceback.format_tb(each.__traceback__))}{type(each).__name__}{_harmless_words(each)}"
        for each in reversed(chain)
    )


def _failure(code: ExitCode, message: str) -> Failure:
    return Failure(code, meaning_of(code).reason, message)


def _first_sentences(text: str) -> str:
    words = " ".join(text.split()).partition(" This is typically caused by")[0]  # gloo goes on with advice and an emoji
    return words if len(words) <= _MESSAGE_LIMIT else f"{words[:_MESSAGE_LIMIT]} […]"


def _harmless_words(error: BaseException) -> str:
    """Return what can be told of an error's text: the system's words for an OSError, and what a library says that sees numbers only."""
    if isinstance(error, OSError):
        return f" ({os.strerror(error.errno)})" if error.errno is not None else ""
    frames = traceback.extract_tb(error.__traceback__)
    place = frames[-1].filename if frames else ""
    sees_numbers_only = any(part in place for part in _NUMERIC_LIBRARIES) and not any(
        part in place for part in _QUOTING_PARTS
    )
    return f" ({_first_sentences(str(error))})" if sees_numbers_only else ""


def _where(error: BaseException) -> str:
    """Return the innermost line of ours, and the library's below it."""
    frames = traceback.extract_tb(error.__traceback__)
    if not frames:
        return ""
    last = frames[-1]
    ours = [frame for frame in frames if "finetune_trainer" in frame.filename]
    if not ours or ours[-1] is last:
        return f" at {_line(last)}"
    return f" at {_line(ours[-1])}, in {_line(last)}"


def _line(frame: traceback.FrameSummary) -> str:
    return f"{Path(frame.filename).name}:{frame.lineno}"
