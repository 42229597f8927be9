"""Which rows were there before, in 8 bytes each: a set of Python integers takes about 90 bytes a row, too much for ten million rows."""

from __future__ import annotations

from array import array
from typing import Final

_SMALLEST: Final = 1 << 12
_WORD: Final = (1 << 64) - 1


class SeenDigests:
    """A set of 64-bit digests by open addressing; two different rows of ten million share a digest once in 370,000 runs."""

    def __init__(self) -> None:
        self._slots = array("Q", bytes(8 * _SMALLEST))
        self._count = 0

    def add(self, digest: int) -> bool:
        """Remember a digest and return whether it is new."""
        digest = (digest & _WORD) or 1  # 0 marks an empty slot
        slots = self._slots
        mask = len(slots) - 1
        position = digest & mask
        while (found := slots[position]) != 0:
            if found == digest:
                return False
            position = (position + 1) & mask
        slots[position] = digest
        self._count += 1
        if self._count * 3 > len(slots) * 2:
            self._grow()
        return True

    def _grow(self) -> None:
        old = self._slots
        size = len(old) * 2
        slots = array("Q", bytes(8 * size))
        for digest in old:
            if digest:
                position = digest & (size - 1)
                while slots[position] != 0:
                    position = (position + 1) & (size - 1)
                slots[position] = digest
        self._slots = slots
