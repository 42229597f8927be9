"""Live bytes at every moment of a traced step: a dispatch mode that sees each new storage and hears when it dies.

torch's own `MemTracker` keeps statistics per module and costs ten times as much; its tests allow ±10 %. This one keeps one record per
storage and adds up what CUDA's caching allocator would show as `torch.cuda.max_memory_allocated()`.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

import torch
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import TorchDispatchMode

ALLOCATOR_BLOCK: Final = 512
"""c10/cuda/CUDACachingAllocator.cpp: kMinBlockSize; every allocation is rounded up to a multiple."""


class TracedPhase(StrEnum):
    """Where in a step the tracker is."""

    SETUP = "setup"
    FORWARD = "forward"
    """Embedding and layers."""
    LOSS = "loss"
    """From the last hidden state to the loss."""
    LOSS_BACKWARD = "loss-backward"
    """From the loss back to the gradient of the last hidden state."""
    LAYERS_BACKWARD = "layers-backward"
    """From the last layer to the second, recomputation included."""
    FIRST_LAYER_BACKWARD = "first-layer-backward"
    """The first layer and the embedding: all other gradients exist."""
    OPTIMIZER_STEP = "optimizer-step"


class Category(StrEnum):
    """What a storage holds."""

    WEIGHTS = "weights"
    GRADIENTS = "gradients"
    OPTIMIZER = "optimizer"
    INPUTS = "inputs"
    ACTIVATIONS = "activations"
    """Made in the forward pass of embedding and layers, kept or passing."""
    LOSS = "loss"
    """Made between the last hidden state and its gradient."""
    TEMPORARIES = "temporaries"
    """Made in the backward pass or in the optimizer step, and no gradient of a parameter."""


_CATEGORY_OF_PHASE: Final = {
    TracedPhase.SETUP: Category.INPUTS,
    TracedPhase.FORWARD: Category.ACTIVATIONS,
    TracedPhase.LOSS: Category.LOSS,
    TracedPhase.LOSS_BACKWARD: Category.LOSS,
    TracedPhase.LAYERS_BACKWARD: Category.TEMPORARIES,
    TracedPhase.FIRST_LAYER_BACKWARD: Category.TEMPORARIES,
    TracedPhase.OPTIMIZER_STEP: Category.TEMPORARIES,
}


_BACKWARD: Final = (TracedPhase.LOSS_BACKWARD, TracedPhase.LAYERS_BACKWARD, TracedPhase.FIRST_LAYER_BACKWARD)


def allocated(nbytes: int) -> int:
    """Return the bytes that CUDA's caching allocator counts for a request of `nbytes`."""
    return -(-nbytes // ALLOCATOR_BLOCK) * ALLOCATOR_BLOCK


@dataclass
class StorageRecord:
    """One storage's life; `born` and `died` count allocations since the tracker began."""

    nbytes: int
    category: Category
    born: int
    operator: str
    died: int | None = None


@dataclass
class PhasePeak:
    """The highest moment of one phase."""

    nbytes: int = 0
    moment: int = 0


@dataclass
class PeakTracker:
    """Counts live bytes; `mode()` gives the dispatch mode that feeds it."""

    live: int = 0
    phase: TracedPhase = TracedPhase.SETUP
    peaks: dict[TracedPhase, PhasePeak] = field(default_factory=dict)
    entered: dict[TracedPhase, int] = field(default_factory=dict)
    """The moment at which each phase last began."""
    _moment: int = 0
    _live_records: dict[int, StorageRecord] = field(default_factory=dict)
    _references: dict[int, weakref.ref[Any]] = field(default_factory=dict)
    _records: list[StorageRecord] = field(default_factory=list)

    def enter(self, phase: TracedPhase) -> None:
        """Let a phase begin; what lives now counts for it."""
        self.phase = phase
        self.entered[phase] = self._moment
        self._note()

    def observe(self, tensor: torch.Tensor, operator: str = "") -> None:
        """Count the storage of `tensor` if it is new."""
        storage = _local(tensor).untyped_storage()
        key = storage._cdata
        if key in self._live_records or tensor.device.type == "meta":
            return
        self._begin(storage, _CATEGORY_OF_PHASE[self.phase], operator)

    def passing(self, nbytes: int) -> None:
        """Count bytes that live only inside one kernel."""
        self.live += nbytes
        self._moment += 1
        self._note()
        self.live -= nbytes

    def summed(self, left: Any, right: Any, out: torch.Tensor) -> None:
        """Let the sum of two gradients take the first one's place.

        Autograd's engine adds up in place what nobody else holds, a view's base included, but never tensor subclasses, which fake tensors
        are (torch/csrc/autograd/input_buffer.cpp, can_accumulate_inplace; seen in torch.profiler on real tensors of torch 2.13: the gradients
        of a residual stream in place, those of a tied weight behind a plain linear head not).
        """
        is_backward = self.phase in _BACKWARD and not torch.is_grad_enabled()
        if not is_backward or not isinstance(left, torch.Tensor) or not isinstance(right, torch.Tensor):
            return
        if left._is_view():
            return
        key = _local(left).untyped_storage()._cdata
        same = left.shape == right.shape and left.dtype == right.dtype == out.dtype
        if same and key in self._live_records and self._live_records[key].category is not Category.GRADIENTS:
            self._end(key)

    def assign(self, tensors: Iterable[torch.Tensor], category: Category) -> None:
        """Say what storages hold; they may have been made in any phase."""
        for tensor in tensors:
            self.observe(tensor)
            self._live_records[_local(tensor).untyped_storage()._cdata].category = category

    def resizing(self, resize: Callable[[Any, int], Any]) -> Callable[[Any, int], Any]:
        """Return `UntypedStorage.resize_` with a look at what it does: FSDP2 frees gathered weights by it, and takes them back."""

        def resized(storage: Any, size: int) -> Any:
            result = resize(storage, size)
            record = self._live_records.get(storage._cdata)
            if record is not None:
                self._end(storage._cdata)
                self._begin(storage, record.category, record.operator)
            return result

        return resized

    def start_measuring(self) -> None:
        """Forget the peaks so far: the step that counts begins."""
        self.peaks.clear()
        self._records = list(self._live_records.values())

    def at_peak(self, phase: TracedPhase) -> dict[Category, int]:
        """Return the bytes per category at the highest moment of `phase`; what kernels hold inside is not among them."""
        return self.at(self.peaks[phase].moment)

    def at(self, moment: int) -> dict[Category, int]:
        """Return the bytes per category that lived at one moment."""
        found = dict.fromkeys(Category, 0)
        for record in self.alive_at(moment):
            found[record.category] += record.nbytes
        return found

    def alive_at(self, moment: int) -> list[StorageRecord]:
        """Return the storages that lived at one moment, in the order of their birth."""
        return [r for r in self._records if r.born <= moment and (r.died is None or r.died > moment)]

    def mode(self) -> TorchDispatchMode:
        """Return the dispatch mode; enter it inside the fake mode."""
        return _TrackingMode(self)

    def _note(self) -> None:
        peak = self.peaks.setdefault(self.phase, PhasePeak())
        if self.live > peak.nbytes:
            peak.nbytes, peak.moment = self.live, self._moment

    def _death_of(self, key: int) -> Callable[[object], None]:
        return lambda _: self._end(key)

    def _begin(self, storage: Any, category: Category, operator: str) -> None:
        key, nbytes = storage._cdata, allocated(storage.nbytes())
        self._moment += 1
        record = StorageRecord(nbytes, category, self._moment, operator)
        self._live_records[key] = record
        self._references[key] = weakref.ref(storage, self._death_of(key))
        self._records.append(record)
        self.live += nbytes
        self._note()

    def _end(self, key: int) -> None:
        record = self._live_records.pop(key, None)
        if record is None:
            return  # its place was taken
        del self._references[key]
        self._moment += 1
        record.died = self._moment
        self.live -= record.nbytes


def _local(tensor: torch.Tensor) -> torch.Tensor:
    """Return this rank's part of a sharded tensor; any other tensor itself."""
    return tensor._local_tensor if isinstance(tensor, DTensor) else tensor


_INDEX_PUT_ACCUMULATES: Final = 4
"""Arguments of index_put when it adds. Only indexing's backward calls it so: into the zeros that it has just made, in place unless a dispatch
mode is on (torch 2.13, FunctionsManual.cpp, index_backward: areAnyTensorSubclassLike)."""


class _TrackingMode(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(self, tracker: PeakTracker) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._tracker = tracker

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if DTensor in types:
            # Made of local tensors, whose own operations come by one level down.
            return NotImplemented
        if func is torch.ops.aten.index_put.default and len(args) == _INDEX_PUT_ACCUMULATES and args[-1]:
            func = torch.ops.aten.index_put_.default
        if func is torch.ops._c10d_functional.wait_tensor.default:
            return args[0]  # on a GPU the same tensor; its shape function says a new one
        out = func(*args, **(kwargs or {}))
        if func is torch.ops.aten.add.Tensor:
            self._tracker.summed(args[0], args[1], out)
        if isinstance(out, torch.Tensor):
            self._tracker.observe(out, func.__name__)
        elif isinstance(out, tuple | list):
            for each in out:
                if isinstance(each, torch.Tensor):
                    self._tracker.observe(each, func.__name__)
        return out
