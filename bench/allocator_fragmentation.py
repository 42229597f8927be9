"""What torch's caching allocator holds beyond live tensors, by simulation: `python bench/allocator_fragmentation.py`; prints JSON.

The allocator is modelled as c10/cuda/CUDACachingAllocator.cpp describes it (torch 2.1 to 2.13, expandable segments off): sizes rounded to
512 bytes, best fit, segments of 2 MiB below 1 MiB, of 20 MiB below 10 MiB, else rounded to 2 MiB; blocks are split and merged again, and
segments are returned only when memory runs out. It plays LoRA steps with gradient checkpointing over the models below; lengths are all equal,
or drawn from a log-normal distribution (median 2,440 tokens, σ 0.75) and cut at the limit, as long documents are.

`ratio` is what is reserved beside weights / what is alive beside weights at most: the data behind memory/allocator.py.
"""

from __future__ import annotations

import argparse
import bisect
import json
import random
import statistics
from collections.abc import Iterator
from dataclasses import dataclass, field

MIB = 2**20
SMALL = MIB
SMALL_SEGMENT, LARGE_SEGMENT, ROUND_LARGE = 2 * MIB, 20 * MIB, 2 * MIB


@dataclass
class Block:
    """A piece of a segment; neighbours are joined when both are free."""

    size: int
    pool: str
    used: bool = False
    before: Block | None = None
    behind: Block | None = None
    number: int = 0


@dataclass
class CachingAllocator:
    """The allocator of one GPU. `reserved` and `alive` are bytes now, the `most_` ones at most so far."""

    free: dict[str, list[tuple[int, int]]] = field(default_factory=lambda: {"small": [], "large": []})
    blocks: dict[int, Block] = field(default_factory=dict)
    reserved: int = 0
    alive: int = 0
    most_reserved: int = 0
    most_alive: int = 0
    _made: int = 0

    def allocate(self, size: int) -> Block:
        """Return a block of at least `size` bytes: the smallest free one that fits, or a part of a new segment."""
        size = max(512, -(-size // 512) * 512)
        pool = "small" if size <= SMALL else "large"
        free = self.free[pool]
        place = bisect.bisect_left(free, (size, 0))
        if place < len(free):
            block = self.blocks[free.pop(place)[1]]
        else:
            block = self._add(Block(_segment(size), pool))
            self.reserved += block.size
            self.most_reserved = max(self.most_reserved, self.reserved)
        rest = block.size - size
        if rest >= (512 if pool == "small" else SMALL + 1):
            tail = self._add(Block(rest, pool, before=block, behind=block.behind))
            if block.behind:
                block.behind.before = tail
            block.behind, block.size = tail, size
            bisect.insort(free, (rest, tail.number))
        block.used = True
        self.alive += block.size
        self.most_alive = max(self.most_alive, self.alive)
        return block

    def release(self, block: Block) -> None:
        """Put a block back and join it with free neighbours."""
        block.used = False
        self.alive -= block.size
        if (before := block.before) and not before.used:
            self._take(before)
            block.size += before.size
            block.before = before.before
            if block.before:
                block.before.behind = block
        if (behind := block.behind) and not behind.used:
            self._take(behind)
            block.size += behind.size
            block.behind = behind.behind
            if block.behind:
                block.behind.before = block
        bisect.insort(self.free[block.pool], (block.size, block.number))

    def _add(self, block: Block) -> Block:
        self._made += 1
        block.number = self._made
        self.blocks[block.number] = block
        return block

    def _take(self, block: Block) -> None:
        free = self.free[block.pool]
        free.pop(bisect.bisect_left(free, (block.size, block.number)))
        del self.blocks[block.number]


def _segment(size: int) -> int:
    if size <= SMALL:
        return SMALL_SEGMENT
    return LARGE_SEGMENT if size < 10 * MIB else -(-size // ROUND_LARGE) * ROUND_LARGE


@dataclass(frozen=True)
class Model:
    """Widths of a Llama-like model; `weights` in GiB."""

    name: str
    hidden: int
    width: int
    keys: int
    vocabulary: int
    layers: int
    weights: float


MODELS = (
    Model("7B, vocabulary 152k", 4096, 11008, 4096, 151936, 32, 14.38),
    Model("6B, vocabulary 64k", 4096, 11008, 512, 64000, 32, 11.29),
    Model("1.8B, vocabulary 152k", 2048, 5504, 2048, 151936, 24, 3.42),
)


class Step:
    """One training step's allocations, in order; bfloat16 with float32 norms and loss."""

    def __init__(self, allocator: CachingAllocator, model: Model, tokens: int) -> None:
        self._allocator, self._model, self._tokens = allocator, model, tokens

    def _make(self, *bytes_per_token: int) -> list[Block]:
        return [self._allocator.allocate(width * self._tokens) for width in bytes_per_token]

    def _drop(self, *blocks: Block) -> None:
        for block in blocks:
            self._allocator.release(block)

    def _layer(self) -> tuple[Block, list[Block]]:
        h, f, k = self._model.hidden, self._model.width, self._model.keys
        wide, normed, query, key, value = self._make(4 * h, 2 * h, 2 * h, 2 * k, 2 * k)
        turned_query, turned_key = self._make(2 * h, 2 * k)
        self._drop(query, key)
        mixed, projected, stream = self._make(2 * h, 2 * h, 2 * h)
        self._drop(projected)
        kept = [
            wide,
            normed,
            value,
            turned_query,
            turned_key,
            mixed,
            *self._make(4 * h, 2 * h, 2 * f, 2 * f, 2 * f, 2 * f),
        ]
        down, out = self._make(2 * h, 2 * h)
        self._drop(down, stream)
        return out, kept

    def _loss(self) -> None:
        v = self._model.vocabulary
        logits, shifted, wide, soft = self._make(2 * v, 2 * v, 4 * v, 4 * v)
        self._drop(wide)
        output, gradient, wide_gradient = self._make(4 * v, 4 * v, 4 * v)
        self._drop(gradient, soft)
        (narrow,) = self._make(2 * v)
        self._drop(wide_gradient, shifted)
        (whole,) = self._make(2 * v)
        self._drop(narrow, output, logits, whole)

    def play_kept(self) -> None:
        """Forward that keeps every layer's activations, loss, and the layers' backward pass."""
        streams, layers = self._make(2 * self._model.hidden), []
        for _ in range(self._model.layers):
            out, kept = self._layer()
            streams.append(out)
            layers.append(kept)
        self._loss()
        (gradient,) = self._make(2 * self._model.hidden)
        for kept in reversed(layers):
            gradient = self._backward(gradient, [*kept, streams.pop()])
        self._drop(gradient, *streams)

    def _backward(self, gradient: Block, kept: list[Block]) -> Block:
        h, f, k = self._model.hidden, self._model.width, self._model.keys
        self._drop(*self._make(2 * f, 2 * f, 2 * f, 2 * h))
        attention = self._make(2 * h, 2 * k, 2 * k, 2 * h)
        self._drop(*attention[:3], *kept, gradient)
        return attention[3]

    def play(self) -> None:
        """Forward under checkpointing, loss, and the layers again with their backward pass."""
        h = self._model.hidden
        streams = self._make(2 * h)
        for _ in range(self._model.layers):
            out, kept = self._layer()
            self._drop(*kept)
            streams.append(out)
        self._loss()
        (gradient,) = self._make(2 * h)
        for _ in range(self._model.layers):
            out, kept = self._layer()
            gradient = self._backward(gradient, [*kept, out, streams.pop()])
        self._drop(gradient, *streams)


def lengths(limit: int, steps: int, source: random.Random | None) -> Iterator[int]:
    """Yield the tokens of each step: the limit always, or drawn and cut at it."""
    for _ in range(steps):
        yield limit if source is None else min(limit, max(64, int(source.lognormvariate(7.8, 0.75))))


def ratio(model: Model, limit: int, steps: int, source: random.Random | None) -> float:
    """Return reserved / alive beside the weights, after `steps` steps."""
    allocator = CachingAllocator()
    weights = allocator.allocate(round(model.weights * 2**30)).size
    for tokens in lengths(limit, steps, source):
        Step(allocator, model, tokens).play()
    return (allocator.most_reserved - weights) / (allocator.most_alive - weights)


def fresh_ratio(model: Model, tokens: int) -> float:
    """Return reserved / alive beside the weights of one step from an empty cache, without checkpointing."""
    allocator = CachingAllocator()
    Step(allocator, model, tokens).play_kept()
    return allocator.most_reserved / allocator.most_alive


def main() -> None:
    """Simulate and print."""
    parser = argparse.ArgumentParser(description="Simulate torch's caching allocator.")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    cases = []
    for model in MODELS:
        for limit in (1024, 2048, 4096, 8192):
            varied = [ratio(model, limit, options.steps, random.Random(seed)) for seed in range(options.seeds)]
            equal = ratio(model, limit, 3, None)
            cases.append(
                {
                    "model": model.name,
                    "limit": limit,
                    "equal": round(equal, 3),
                    "fresh": round(fresh_ratio(model, limit), 3),
                    "varied": [round(x, 3) for x in varied],
                }
            )
    result = {
        "median_ratio_equal_lengths": statistics.median(case["equal"] for case in cases),
        "median_ratio_fresh": statistics.median(case["fresh"] for case in cases),
        "median_ratio_varied_lengths": statistics.median(x for case in cases for x in case["varied"]),
        "cases": cases,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
