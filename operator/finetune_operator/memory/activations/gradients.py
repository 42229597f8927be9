"""Tensors of a programme, and the buffers in which autograd's engine hands their gradients on."""

from __future__ import annotations

from dataclasses import dataclass

from finetune_operator.memory.activations.size import Size, Sum


@dataclass(eq=False, slots=True)
class Value:
    """A tensor; views share their storage. Nobody changes one; not frozen, since a programme has hundreds and frozen ones are made slowly."""

    storage: int
    size: Size
    """Of the tensor itself, which may be a part of its storage."""
    width: int
    """Bytes per element."""
    differentiable: bool


class Gradients:
    """The engine's buffers: one gradient per tensor, added up in place as further ones arrive."""

    def __init__(self) -> None:
        self.alive: Sum = 0
        self._sizes: dict[int, Sum] = {}
        self._users: dict[int, int] = {}
        self._of: dict[Value, int] = {}

    def make(self, size: Sum) -> int:
        """Return the key of a new gradient."""
        key = len(self._sizes)
        self._sizes[key], self._users[key] = size, 0
        self.alive += size
        return key

    def give(self, value: Value, key: int) -> None:
        """Hand gradient `key` to `value`; a second one is added to the first and freed."""
        if value not in self._of:
            self._of[value] = key
            self._users[key] += 1
        elif not self._users[key]:
            self._users[key] = 1
            self.release(key)

    def take(self, value: Value) -> int | None:
        """Return the gradient of `value`, which is then asked for no more; None where none arrived."""
        return self._of.pop(value, None)

    def release(self, key: int) -> None:
        """Let one user of the gradient go; it is freed with the last."""
        self._users[key] -= 1
        if not self._users[key]:
            self.alive -= self._sizes[key]
