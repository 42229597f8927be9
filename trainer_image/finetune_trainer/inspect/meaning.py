"""Rows that mean what an earlier one does (`filters.deduplicate: semantic`), by the cosine of their vectors.

embedder.py makes the vectors. Every row is compared with every earlier one that stayed, exactly: SemDeDup (arXiv 2303.09540) compares within
clusters instead, for billions of rows, and misses pairs across them. Vectors are kept as float16, whose rounding moves a cosine by less than 0.001.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from finetune_operator.api.exit_codes import ExitCode
from finetune_operator.api.row_models import MOST_COMPARED
from finetune_trainer.failures import TrainerFailure
from finetune_trainer.row_filters import contents
from finetune_trainer.rows import RowValue

Embed = Callable[[Sequence[str]], NDArray[np.float32]]
"""Texts to vectors of length 1, [texts, dimensions]."""
BLOCK_ROWS: Final = 4096
"""Compared at once: at 1,024 dimensions a block is 16 MiB as float32."""
REASON: Final = "filters.deduplicate: it means the same as an earlier row"


class Meanings:
    """Remembers the vectors of rows that stay."""

    def __init__(self, embed: Embed, threshold: float, most: int = MOST_COMPARED) -> None:
        self._embed, self._threshold, self._most = embed, threshold, most
        self._blocks: list[NDArray[np.float16]] = []
        self._kept = 0

    def reasons(self, values: Sequence[RowValue]) -> list[str | None]:
        """Return why each row is left out; rows that stay are compared with from here on, also within `values`.

        Raises:
            TrainerFailure: more rows stay than are held in memory.
        """
        vectors = self._embed([" ".join(contents(value)) for value in values])
        nearest = np.full(len(values), -1.0, np.float32)
        for number, block in enumerate(self._blocks):
            filled = min(BLOCK_ROWS, self._kept - number * BLOCK_ROWS)
            nearest = np.maximum(nearest, (block[:filled].astype(np.float32) @ vectors.T).max(axis=0))
        among = vectors @ vectors.T
        staying: list[int] = []
        for index in range(len(values)):
            if nearest[index] < self._threshold and not (among[index, staying] >= self._threshold).any():
                staying.append(index)
        for index in staying:
            self._keep(vectors[index])
        stays = set(staying)
        return [None if index in stays else REASON for index in range(len(values))]

    def _keep(self, vector: NDArray[np.float32]) -> None:
        if self._kept == self._most:
            raise TrainerFailure(
                ExitCode.BAD_SPEC,
                f"filters.deduplicate: semantic compares at most {self._most:,} rows that differ, and the data set has more; set deduplicate: "
                "minhash, which has no such bound, or divide the data set",
            )
        number, place = divmod(self._kept, BLOCK_ROWS)
        if number == len(self._blocks):
            self._blocks.append(np.zeros((BLOCK_ROWS, len(vector)), np.float16))
        self._blocks[number][place] = vector
        self._kept += 1
