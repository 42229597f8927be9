"""Where and when tests compile DeepSpeed's operator for CPU ranks."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path


def own_extensions() -> Path:
    """Return where DeepSpeed's operators are compiled to for this checkout's tests: in a common folder each checkout would compile them again.

    torch waits for ever for the lock of a compilation that was killed, so that such locks go first.
    """
    checkout = hashlib.sha256(sys.prefix.encode()).hexdigest()[:8]
    folder = Path.home() / ".cache" / "torch_extensions" / f"finetune-{checkout}"
    for lock in folder.rglob("lock"):
        lock.unlink()
    return folder


def compile_operator() -> None:
    """Have DeepSpeed's operator for CPU ranks ready: compiling it takes a minute, which a case's limit is not meant for."""
    from deepspeed.ops.op_builder.cpu import ShareMemCommBuilder

    ShareMemCommBuilder().load(verbose=False)
