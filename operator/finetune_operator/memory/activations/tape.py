"""A programme of operations as torch.autograd sees it: which tensors the forward pass keeps, and what is alive at each step backwards.

A layer is written down as the calls that its forward function makes (norms.py, linear.py, attention.py, …), each with the tensors that its
autograd formula saves and the extra ones that its backward formula makes. Playing the tape backwards in torch's order (the engine runs the
node that was made last) gives every point of the backward pass as a `Size`, so nothing about how gradients overlap is guessed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import NamedTuple

from finetune_operator.memory.activations.gradients import Gradients, Value
from finetune_operator.memory.activations.profile import Profile
from finetune_operator.memory.activations.size import NOTHING, Size, Sum, as_sum, fixed_sum, from_sum, highest, total


@dataclass(slots=True)
class Operation:
    """One autograd node."""

    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    """More than one of a split."""
    saved: tuple[int, ...]
    """Storages that stay until this node has run backwards."""
    held: tuple[int, ...]
    """Those of them that stay as long as the graph does: kept as an attribute of the node, or by the training loop."""
    passes_on: bool
    """The gradient of the output is that of the inputs: views, sums and concatenations."""
    transient: Sum
    """What the backward formula makes and frees again."""
    weight_gradients: int
    """Bytes of the gradients of trained weights, which stay."""


class _Moment(NamedTuple):
    """One operation of the forward pass."""

    made: int | None
    """The storage of its output; None: the calling function only held something until here."""
    used: tuple[int, ...]
    saves: bool
    saves_output: bool
    kept: Sum
    """Everything that waits for the backward pass once it has run."""
    transient: Sum


@dataclass
class Tape:
    """Records operations."""

    _sizes: list[Sum] = field(default_factory=list)
    _operations: list[Operation] = field(default_factory=list)
    _kept: dict[int, int] = field(default_factory=dict)
    """Storages that wait for the backward pass, each with the moment from which it is kept."""
    _moments: list[_Moment] = field(default_factory=list)
    _kept_size: Sum = 0
    _cached: int = 0

    def tensor(self, size: Size, width: int, *, differentiable: bool) -> Value:
        """Return a tensor that no recorded operation makes: the programme's input, or a mask."""
        self._sizes.append(as_sum(size))
        return Value(len(self._sizes) - 1, size, width, differentiable)

    def apply(
        self,
        inputs: Sequence[Value],
        size: Size,
        width: int,
        *,
        saves: Sequence[Value] = (),
        saves_output: bool = False,
        also_saves: Size = NOTHING,
        holds: Sequence[Value] = (),
        transient: Size = NOTHING,
        weight_gradients: Sequence[int] = (),
        forward_transient: Size = NOTHING,
    ) -> Value:
        """Record an operation whose output is a new tensor of `size`.

        `also_saves`: tensors that only this node holds, such as statistics or a dropout mask. `holds`: saved tensors that stay until the
        graph is gone. Without a differentiable input or a trained weight nothing is saved.
        """
        differentiable = bool(weight_gradients) or any([value.differentiable for value in inputs])
        output = self.tensor(size, width, differentiable=differentiable)
        own = saves_output or also_saves != NOTHING
        if differentiable:
            held = tuple([value.storage for value in holds])
            saved = {*[value.storage for value in saves], *held}
            if saves_output:
                saved.add(output.storage)
            if also_saves != NOTHING:
                saved.add(self.tensor(also_saves, 1, differentiable=False).storage)
            weights = sum(weight_gradients)
            self._record(inputs, (output,), saved, passes_on=False, transient=transient, weights=weights, held=held)
        saves_some = differentiable and (own or bool(saves) or bool(holds))
        self._pass(inputs, output.storage, saves=saves_some, saves_output=own, transient=forward_transient)
        return output

    def hold(self, *values: Value) -> None:
        """Say that variables of a calling function hold `values` until here."""
        self._pass(values, None, saves=False, saves_output=False, transient=NOTHING)

    @contextmanager
    def holding(self, *values: Value) -> Iterator[None]:
        """Let variables of the running forward function hold `values` while the block runs."""
        yield
        self.hold(*values)

    def _pass(
        self, inputs: Sequence[Value], made: int | None, *, saves: bool, saves_output: bool, transient: Size
    ) -> None:
        used = tuple([value.storage for value in inputs])
        self._moments.append(_Moment(made, used, saves, saves_output, self._kept_size, as_sum(transient)))

    def cached_cast(self, size: int, width: int, gradient: int) -> Value:
        """Record autocast's cast of a trained weight to `size` bytes, which it makes once per forward pass."""
        self._cached += size
        return self.apply((), Size(fixed=size), width, weight_gradients=(gradient,))

    def view(self, value: Value, size: Size | None = None) -> Value:
        """Record a view of `value`; its gradient is a view as well."""
        output = Value(value.storage, size or value.size, value.width, value.differentiable)
        if value.differentiable:
            self._record((value,), (output,), set(), passes_on=True)
        return output

    def slice(self, value: Value, size: Size) -> Value:
        """Record a part of `value`, which keeps its whole storage alive; its gradient is widened to the whole."""
        output = Value(value.storage, size, value.width, value.differentiable)
        if value.differentiable:
            self._record((value,), (output,), set(), passes_on=False)
        return output

    def split(self, value: Value, sizes: Sequence[Size]) -> tuple[Value, ...]:
        """Record a split into parts (chunk, split): the gradients of all are joined into one of the whole at once."""
        parts = tuple(Value(value.storage, size, value.width, value.differentiable) for size in sizes)
        if value.differentiable:
            self._record((value,), parts, set(), passes_on=False)
        return parts

    def join(self, parts: Sequence[Value]) -> Value:
        """Record a concatenation: the parts' gradients are views of the whole one."""
        size, width = total(part.size for part in parts), parts[0].width
        output = self.tensor(size, width, differentiable=any(part.differentiable for part in parts))
        self._pass(parts, output.storage, saves=False, saves_output=False, transient=NOTHING)
        if output.differentiable:
            self._record(parts, (output,), set(), passes_on=True)
        return output

    def write(self, whole: Value, part: Value) -> Value:
        """Record the copy of `part` into a slice of `whole`: backwards the gradient of all is cloned, the part's own copied, and cleared there."""
        output = Value(whole.storage, whole.size, whole.width, whole.differentiable or part.differentiable)
        self.hold(whole, part)
        if output.differentiable:
            clone = NOTHING if whole.differentiable else whole.size
            self._record((whole, part), (output,), set(), passes_on=False, transient=part.size.plus(clone))
        return output

    def add(self, left: Value, right: Value) -> Value:
        """Record a sum: it saves nothing, and both inputs get the same gradient (a cast one where their types differ)."""
        width = max(left.width, right.width)
        left, right = self.cast(left, width, implied=True), self.cast(right, width, implied=True)
        output = self.tensor(left.size, width, differentiable=left.differentiable or right.differentiable)
        self._pass((left, right), output.storage, saves=False, saves_output=False, transient=NOTHING)
        if output.differentiable:
            self._record((left, right), (output,), set(), passes_on=True)
        return output

    def cast(self, value: Value, width: int, *, implied: bool = False) -> Value:
        """Record a cast to another width; the same tensor where it has it already. `implied`: inside a kernel, so without an own tensor."""
        if value.width == width:
            return value
        size = Size(*(part * width // value.width for part in value.size))
        if implied:
            output = Value(value.storage, size, width, value.differentiable)
            if value.differentiable:
                self._record((value,), (output,), set(), passes_on=False)
            return output
        return self.apply((value,), size, width)

    def profile(self, output: Value, *, output_gradient: bool = True) -> Profile:
        """Return what the programme needs when the gradient of `output` is given."""
        forward, recomputed = self._forward(output)
        points, earlier, gradients = self._backward(output, output_gradient=output_gradient)
        added_up = (point + fixed_sum(weights) for point, weights in zip(points, earlier, strict=True))
        return Profile(
            kept=from_sum(self._kept_size),
            forward=highest(forward),
            recomputed=highest(recomputed),
            backward=highest(added_up),
            accumulating=highest(points),
            weight_gradients=gradients,
            keeps_input=0 in self._kept,
            cached=self._cached,
            held=from_sum(sum(self._sizes[storage] for storage in {s for o in self._operations for s in o.held})),
        )

    def _forward(self, output: Value) -> tuple[list[Sum], list[Sum]]:
        """Return every point of the forward pass: what is kept, and what is alive because something still reads or holds it.

        Then those of a checkpoint's second one, without the input and without what follows the last saved tensor.
        """
        moments, end = self._moments, len(self._moments)
        last_use = {output.storage: end}
        for number, moment in enumerate(moments):
            last_use.update(dict.fromkeys(moment.used, number))
        passing, leaving = 0, [0] * (end + 1)

        def last_moment(storage: int, made: int) -> int:
            """Until when it is counted here: its last use, or before it is kept and counted there."""
            return min(last_use.get(storage, made), self._kept.get(storage, end + 1) - 1)

        points = []
        for number, moment in enumerate(moments):
            if moment.made is not None and (last := last_moment(moment.made, number)) >= number:
                passing += self._sizes[moment.made]
                leaving[last] += self._sizes[moment.made]
            points.append(moment.kept + passing + moment.transient)
            passing -= leaving[number]
        with_input = last_moment(0, 0) + 1
        whole = [point + self._sizes[0] for point in points[:with_input]] + points[with_input:]
        if saving := [number for number, moment in enumerate(moments) if moment.saves]:
            points = points[: saving[-1] + moments[saving[-1]].saves_output]
        return whole or [0], points or [0]

    def _record(
        self,
        inputs: Sequence[Value],
        outputs: tuple[Value, ...],
        saved: set[int],
        *,
        passes_on: bool,
        transient: Size = NOTHING,
        weights: int = 0,
        held: tuple[int, ...] = (),
    ) -> None:
        for storage in saved - self._kept.keys():
            self._kept_size += self._sizes[storage]
            self._kept[storage] = len(self._moments)
        differentiable = tuple([value for value in inputs if value.differentiable])
        self._operations.append(
            Operation(differentiable, outputs, tuple(saved), held, passes_on, as_sum(transient), weights)
        )

    def _backward(self, output: Value, *, output_gradient: bool) -> tuple[list[Sum], list[int], int]:
        """Return every point with the weights' gradients of that operation alone, those of the operations before, and those of all."""
        holders = dict.fromkeys(self._kept, 0)
        for operation in self._operations:
            for storage in (*operation.saved, *operation.held):
                holders[storage] += 1
        gradients = Gradients()
        if output_gradient:
            gradients.give(output, gradients.make(as_sum(output.size)))
        alive, weights = self._kept_size, 0
        points, earlier = [alive + gradients.alive], [0]
        for operation in reversed(self._operations):
            incoming = [key for output in operation.outputs if (key := gradients.take(output)) is not None]
            if not incoming:
                continue
            made = []
            for value in operation.inputs:
                key = incoming[0] if operation.passes_on else gradients.make(as_sum(value.size))
                made.append((value, key))
            new = operation.weight_gradients
            points.append(alive + gradients.alive + operation.transient + fixed_sum(new))
            earlier.append(weights)
            weights += new
            for value, key in made:
                gradients.give(value, key)
            for key in incoming:
                gradients.release(key)
            for storage in operation.saved:
                holders[storage] -= 1
                if not holders[storage]:
                    alive -= self._sizes[storage]
        points.append(alive + gradients.alive)
        return points, [*earlier, weights], weights
