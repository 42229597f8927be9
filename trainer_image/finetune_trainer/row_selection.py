"""Which usable rows are evaluated, which are trained and how often: decided by the row alone, so that inspect and train agree whatever else differs.

A row goes where the digest of its content says, not its number: the split does not change when files are cut, joined or written in another format,
and equal rows are never on both sides, where a model would be judged by what it has learned.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import Final

from finetune_operator.api.evaluation import Split
from finetune_trainer.rows import RowValue

_DIGESTS: Final = 1 << 64
_WEIGHTS: Final = 1 << 32
"""Added to the seed of weights: seeds of splits are smaller, so that a weight does not choose among rows that a split of the same seed left."""


def digest_of(value: RowValue, salt: int = 0) -> int:
    """Return 64 bits of a row's content."""
    content = repr(value).encode("utf-8", "surrogatepass")
    return int.from_bytes(blake2b(content, digest_size=8, salt=salt.to_bytes(8, "little")).digest(), "little")


def is_evaluated(value: RowValue, split: Split | None) -> bool:
    """Return whether a row is kept from training."""
    return split is not None and digest_of(value, split.seed) < split.evaluation * _DIGESTS


def times_trained(value: RowValue, weight: float, seed: int) -> int:
    """Return how often a row of a data set of this weight stands in an epoch.

    Every row stands there floor(weight) times, and once more where its digest falls into what is left of the weight. Equal rows fall alike.
    """
    whole = int(weight)
    if weight == whole:
        return whole
    return whole + (digest_of(value, _WEIGHTS + seed) < (weight - whole) * _DIGESTS)
