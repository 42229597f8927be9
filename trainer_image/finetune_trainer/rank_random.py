"""Random numbers of ranks that did not exist when the checkpoint was written: derived from what all ranks know, so that a resume can be repeated."""

from __future__ import annotations

import hashlib
from pathlib import Path


def derived_seed(seed: int, step: int, rank: int) -> int:
    """Return the seed of a rank (32 bits) that goes on at `step` of a run with `seed` and has no state of its own."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{step}/{rank}".encode()).digest()[:4])


def has_own_state(checkpoint: Path, rank: int, world_size: int) -> bool:
    """Return whether transformers' file for this rank is in the checkpoint: without one it goes on with whatever numbers come."""
    name = f"rng_state_{rank}.pth" if world_size > 1 else "rng_state.pth"
    return (checkpoint / name).is_file()
