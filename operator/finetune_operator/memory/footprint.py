"""From live tensors to the memory of a process: the allocator's holes, what lies outside it, and how far the peak may be off.

All of it in plain numbers: a search compares thousands of footprints and shows four of them as estimates.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from operator import attrgetter
from typing import Final, NamedTuple

from finetune_operator.api.plan import GIB, Component, MemoryEstimate, MemoryRange, Phase, PhaseMemory
from finetune_operator.memory.allocator import TRACED_MARGIN, IdleShares, idle_shares, margin_bytes
from finetune_operator.memory.runtime import communication_bytes, runtime_bytes
from finetune_operator.memory.workload import Workload

CPU_HEAP_SHARE: Final = 0.3
"""Holes in glibc's heap, as a share of activations, logits and temporaries. Measured with a Llama of 32 million parameters and 2,048 tokens
per micro-batch: 0.15 (full, bf16), 0.19 (full), 0.39 (full with checkpointing), 0.39 (LoRA, bf16), 0.47 (LoRA). With MALLOC_MMAP_THRESHOLD_=65536
there are none: LoRA then took 1.342 GiB above the interpreter where the closed form says 1.34."""

CPU_MARGIN: Final = 0.2
"""upper on the CPU: the heap's holes vary by as much."""

CPU_UPPER_CONSTANT: Final = GIB // 8


class Held(NamedTuple):
    """Live bytes at one point of a run, by what they are for."""

    weights: int = 0
    gradients: int = 0
    optimizer: int = 0
    activations: int = 0
    logits: int = 0
    temporaries: int = 0
    communication: int = 0

    @property
    def passing(self) -> int:
        """What comes and goes in every micro-batch. Without activations the temporaries are the optimizer's, the same in every step."""
        kept = self.activations + self.logits
        return kept + self.temporaries if kept else 0


class PhasePeak(NamedTuple):
    """The highest point of a phase."""

    phase: Phase
    held: Held
    reserved: int
    """With the holes of the caching allocator (on the CPU: of the heap)."""


_reserved = attrgetter("reserved")


@dataclass(frozen=True, slots=True)
class Footprint:
    """The memory of one process in every phase; bytes."""

    workload: Workload
    phases: tuple[PhasePeak, ...]
    peak: PhasePeak
    expected_bytes: int
    upper_bytes: int
    traced: bool = False
    """Of an architecture without a table."""

    def estimate(self) -> MemoryEstimate:
        """Return the same in the words of the API."""
        allocated = max(sum(phase.held) for phase in self.phases)
        return MemoryEstimate(
            expected_bytes=self.expected_bytes,
            upper_bytes=self.upper_bytes,
            allocated=self._range(allocated, holes=False),
            reserved=self._range(self.peak.reserved),
            phases=tuple(PhaseMemory(phase=peak.phase, components=self._components(peak)) for peak in self.phases),
            peak_phase=self.peak.phase,
        )

    def _range(self, held: int, *, holes: bool = True) -> MemoryRange:
        margin = _margin(self.workload, held, holes=holes, traced=self.traced)
        return MemoryRange(expected_bytes=held, upper_bytes=held + margin)

    def _components(self, peak: PhasePeak) -> dict[Component, int]:
        found = {Component(name): size for name, size in peak.held._asdict().items()}
        found[Component.COMMUNICATION] += communication_bytes(self.workload)
        found[Component.RUNTIME] = runtime_bytes(self.workload)
        found[Component.FRAGMENTATION] = peak.reserved - sum(peak.held)
        return found


def footprint_of(
    workload: Workload, phases: Iterable[tuple[Phase, tuple[Held, ...]]], *, traced: bool = False
) -> Footprint:
    """Return the footprint of a process that holds so much at the points of each phase."""
    highest = _highest_on_cpu if workload.accelerator == "cpu" else _highest_on_gpu
    shares = idle_shares(workload)
    peaks = tuple(highest(phase, points, shares) for phase, points in phases)
    peak = max(peaks, key=_reserved)
    expected = peak.reserved + runtime_bytes(workload) + communication_bytes(workload)
    return Footprint(
        workload, peaks, peak, expected, expected + _margin(workload, peak.reserved, traced=traced), traced
    )


def _highest_on_gpu(phase: Phase, points: tuple[Held, ...], shares: IdleShares) -> PhasePeak:
    def reserved(held: Held) -> int:
        live, passing = sum(held), held.passing
        return live + shares.of(live, passing, held.logits if passing else 0)

    return max((PhasePeak(phase, held, reserved(held)) for held in points), key=_reserved)


def _highest_on_cpu(phase: Phase, points: tuple[Held, ...], _shares: IdleShares) -> PhasePeak:
    share = CPU_HEAP_SHARE if phase is Phase.BACKWARD else 0
    return max((PhasePeak(phase, held, sum(held) + round(share * held.passing)) for held in points), key=_reserved)


def _margin(workload: Workload, held: int, *, holes: bool = True, traced: bool = False) -> int:
    more = round(TRACED_MARGIN * held) if traced else 0
    if workload.accelerator == "cpu":
        return round(CPU_MARGIN * held) + CPU_UPPER_CONSTANT + more
    return margin_bytes(workload, held, holes=holes) + more
