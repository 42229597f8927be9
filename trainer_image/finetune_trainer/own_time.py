"""What a rank spends by itself in a step: on reading its batches, and on computing between the places where ranks meet.

The forward passes of single layers are timed, inside FSDP2's gathering: its hook before a layer runs first, so that ours starts when the weights
are there. DDP and ZeRO-1/2 gather nothing in the forward pass. DeepSpeed's ZeRO-3 gathers inside of layers, where waiting for peers cannot
be told from computing: there only the batches count. The backward pass is left out: it computes the same layers on the same device.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any, Final

import torch

LAYERS_TIMED: Final = 8
"""Evenly spread; a slow device is slow in all of them, and each costs two events."""


class OwnTime:
    """Adds up this rank's own time of a step."""

    def __init__(self) -> None:
        self._data = 0.0
        self._computed = 0.0
        self._scale = 1.0
        self._started: Any = None
        self._events: list[tuple[Any, Any]] = []
        self._earlier: list[tuple[Any, Any]] = []

    def watch_layers(self, model: torch.nn.Module) -> None:
        """Time the model's layers from now on; call it when they are wrapped."""
        lists = [module for module in model.modules() if isinstance(module, torch.nn.ModuleList)]
        layers = list(max(lists, key=len, default=()))
        timed = layers[:: max(1, -(-len(layers) // LAYERS_TIMED))]
        self._scale = len(layers) / len(timed) if timed else 0.0
        on_gpu = next(model.parameters()).device.type == "cuda"
        for layer in timed:
            layer.register_forward_pre_hook(self._start_on_gpu if on_gpu else self._start)
            layer.register_forward_hook(self._end_on_gpu if on_gpu else self._end)

    def batches(self, iterator: Iterator[Any]) -> Iterator[Any]:
        """Yield the batches, timed."""
        while True:
            started = time.monotonic()
            try:
                batch = next(iterator)
            except StopIteration:
                return
            finally:
                self._data += time.monotonic() - started
            yield batch

    def take(self) -> float:
        """Return the seconds since the last call, and begin anew. A GPU's are those of the step before: this step's may not be over."""
        finished = [pair for pair in self._earlier if pair[1].query()]
        on_gpu = sum(float(start.elapsed_time(end)) for start, end in finished) / 1000
        total = self._data + self._scale * (self._computed + on_gpu)
        self._data, self._computed = 0.0, 0.0
        self._earlier, self._events = self._events, []
        return total

    def _start(self, module: Any, arguments: Any) -> None:
        self._started = time.monotonic()

    def _end(self, module: Any, arguments: Any, result: Any) -> None:
        if self._started is not None:
            self._computed += time.monotonic() - self._started
            self._started = None

    def _start_on_gpu(self, module: Any, arguments: Any) -> None:
        self._started = _event()
        self._started.record()

    def _end_on_gpu(self, module: Any, arguments: Any, result: Any) -> None:
        if self._started is not None:
            end = _event()
            end.record()
            self._events.append((self._started, end))
            self._started = None


def _event() -> Any:
    make: Any = torch.cuda.Event
    return make(enable_timing=True)
