"""From a row to a prediction: its architecture, the workload that its software makes of it, the estimate in the row's own metric kind."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from accuracy.models import architecture_of_row
from accuracy.rows import MetricKind, Row
from accuracy.stacks import stack_of
from accuracy.stages import first_stage, is_mapped, last_stage, stages_of, waiting_bytes
from finetune_operator.api.plan import GIB, MemoryRange
from finetune_operator.memory.estimate import estimate
from finetune_operator.memory.runtime import CUDA_CONTEXT_BYTES


@dataclass(frozen=True)
class Figure:
    """One metric kind of a prediction, in GiB."""

    expected: float
    upper: float


@dataclass(frozen=True)
class Prediction:
    """What the estimator says of one row, in GiB of one GPU."""

    figures: Mapping[MetricKind, Figure]
    components: Mapping[str, float]
    """GiB by component at the peak, for listings."""
    peak_phase: str
    launchable: bool
    """Whether the trainer of this project can run the row's method and quantisation."""

    def figure(self, kind: MetricKind) -> Figure:
        """Return the figure of one metric kind."""
        return self.figures[kind]


@dataclass(frozen=True)
class Unpredictable:
    """Why a row has no prediction; it lowers coverage."""

    reason: str
    launchable: bool


def predict(row: Row) -> Prediction | Unpredictable:
    """Predict one row from its own columns and what is known of its software. Never raises for a value it does not know."""
    architecture = architecture_of_row(row)
    if isinstance(architecture, str):
        return Unpredictable(architecture, is_launchable(row))
    stack = stack_of(row)
    workload = stack.workload(row, architecture)
    if isinstance(workload, str):
        return Unpredictable(workload, is_launchable(row))
    stages, waiting = stages_of(row), 0
    memory = estimate(last_stage(architecture, stages, mapped=is_mapped(row)), workload)
    if row.whole("pp") is not None and stages > 1:
        first = first_stage(architecture, stages)
        memory_of_first, waiting = estimate(first, workload), waiting_bytes(first, workload, stages)
        if memory_of_first.expected_bytes + waiting > memory.expected_bytes:
            memory = memory_of_first
        else:
            waiting = 0
    peak = max(memory.phases, key=lambda phase: phase.total)
    allocated = _figure(memory.allocated, waiting)
    return Prediction(
        figures={
            MetricKind.ALLOCATED: allocated,
            MetricKind.RESERVED: _on_card(_figure(memory.reserved, waiting), allocated, row, CONTEXT_GIB),
            MetricKind.DEVICE: _on_card(_figure(memory.device, waiting), allocated, row, 0.0),
        },
        components={component.value: size / GIB for component, size in peak.components.items() if size},
        peak_phase=peak.phase.value,
        launchable=is_launchable(row),
    )


CONTEXT_GIB = CUDA_CONTEXT_BYTES / GIB


def _on_card(figure: Figure, allocated: Figure, row: Row, outside: float) -> Figure:
    """Cut a figure that has the allocator's cache in it: torch gives its cache back before it fails, so a card holds no more than it has.

    Live tensors are not cut: where they do not fit, the prediction is that the run fails.
    """
    card = row.number("gpu_mem_gib")
    if card is None or card <= outside:
        return figure
    room = card - outside
    return Figure(max(allocated.expected, min(figure.expected, room)), max(allocated.upper, min(figure.upper, card)))


def _figure(found: MemoryRange, waiting: int) -> Figure:
    """`waiting`: bytes of micro-batches that are under way in a pipeline's other stages."""
    return Figure((found.expected_bytes + waiting) / GIB, (found.upper_bytes + waiting) / GIB)


LAUNCHABLE_METHODS = frozenset({"full", "lora", "qlora"})


def is_launchable(row: Row) -> bool:
    """Return whether this project's trainer runs the row's method: full, LoRA, or LoRA on a base that bitsandbytes quantised to 4 bits."""
    if row.method not in LAUNCHABLE_METHODS:
        return False
    quantisation = row.text("quant").lower()
    return row.method != "qlora" or ("gptq" not in quantisation and "int8" not in quantisation)
