"""How much idle memory longer and longer steps leave behind, by simulation: `python bench/longer_steps.py`; prints JSON.

Without expandable segments a step longer than all before it finds no free block for the float32 tensors of its whole logits: the blocks of the
step that was the longest until then are all smaller. New segments come beside the old ones, which are returned only when memory runs out.
The steps are those of bench/allocator_fragmentation.py with the loss of two kinds of programs, one sequence each:

- `wide`: the model widens its logits to float32 (Llama, Mistral). Log-softmax and two gradients of it are float32: 12 bytes per logit.
- `narrow`: the loss reads bfloat16 logits under autocast (Qwen 1's own code). Only the copy that nll_loss reads and the logits that
  accelerate's wrapper returns are float32: 8 bytes per logit.

`times` is (reserved - alive at most) / these bytes of the longest step: the data behind LONGER_STEPS in memory/allocator.py. Lengths up to
2,048 tokens are drawn from four distributions; what is longer is left out, as trainers do.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import random
import statistics
from collections.abc import Callable, Mapping
from functools import partial
from typing import Final

from allocator_fragmentation import MODELS, CachingAllocator, Model, Step

LIMIT: Final = 2048
LAYERS: Final = 4
"""Layers are cut: logits of a large vocabulary decide, and 32 layers give the same within 4 % (uniform lengths, 100 steps, three seeds)."""


class NarrowLoss(Step):
    """The loss of bfloat16 logits under autocast."""

    float32_bytes = 8

    def _loss(self) -> None:
        v = self._model.vocabulary
        logits, soft, wide_soft, returned = self._make(2 * v, 2 * v, 4 * v, 4 * v)
        self._drop(logits, returned)
        (wide_gradient,) = self._make(4 * v)
        self._drop(wide_soft)
        (gradient,) = self._make(2 * v)
        self._drop(wide_gradient)
        (own,) = self._make(2 * v)
        self._drop(gradient, soft)
        (whole,) = self._make(2 * v)
        self._drop(own, whole)


class WideLoss(Step):
    """The loss of logits that the model has widened to float32."""

    float32_bytes = 12

    def _loss(self) -> None:
        v = self._model.vocabulary
        logits, wide = self._make(2 * v, 4 * v)
        self._drop(logits)
        (soft,) = self._make(4 * v)
        self._drop(wide)
        gradient, own = self._make(4 * v, 4 * v)
        self._drop(gradient, soft)
        (whole,) = self._make(4 * v)
        self._drop(own)
        (narrow,) = self._make(2 * v)
        self._drop(whole, narrow)


def _log_normal(median: float) -> Callable[[random.Random], float]:
    return lambda source: source.lognormvariate(math.log(median), 0.7)


LENGTHS: Final[Mapping[str, Callable[[random.Random], float]]] = {
    "median above the limit": _log_normal(1.2 * LIMIT),
    "median at half of the limit": _log_normal(LIMIT / 2),
    "median at a sixth of the limit": _log_normal(LIMIT / 6),
    "uniform": lambda source: source.uniform(50, LIMIT),
}


def times(model: Model, kind: type[NarrowLoss] | type[WideLoss], steps: int, draw: Callable[[], float]) -> float:
    """Return idle bytes after `steps` steps over the float32 logits of the longest."""
    allocator = CachingAllocator()
    longest = played = 0
    while played < steps:
        tokens = int(draw())
        if not 1 < tokens <= LIMIT:
            continue
        kind(allocator, model, tokens).play()
        longest, played = max(longest, tokens), played + 1
    return (allocator.most_reserved - allocator.most_alive) / (kind.float32_bytes * model.vocabulary * longest)


def main() -> None:
    """Simulate and print."""
    parser = argparse.ArgumentParser(description="Simulate the memory that longer and longer steps leave idle.")
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--steps", type=int, nargs="+", default=[300, 1000])
    options = parser.parse_args()
    model = dataclasses.replace(MODELS[0], layers=LAYERS)
    cases, found = [], []
    for kind in (NarrowLoss, WideLoss):
        for name, length in LENGTHS.items():
            for steps in options.steps:
                sources = [random.Random(seed) for seed in range(options.seeds)]
                results = [times(model, kind, steps, partial(length, source)) for source in sources]
                found += results
                median = round(statistics.median(results), 2)
                cases.append({"loss": kind.__name__, "lengths": name, "steps": steps, "median": median})
    deciles = statistics.quantiles(found, n=10)
    print(
        json.dumps(
            {"median": round(statistics.median(found), 2), "deciles": [round(x, 2) for x in deciles], "cases": cases}
        )
    )


if __name__ == "__main__":
    main()
