"""One case both ways: what the closed form predicts and what the oracle traced, phase by phase."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, Final

from finetune_operator.api.plan import Component, Phase, PlanError
from finetune_operator.memory.architecture import architecture_of
from finetune_operator.memory.estimate import estimate
from finetune_trainer.oracle.peak_tracker import TracedPhase
from finetune_trainer.oracle.step import Trace, trace
from traced.cases import Case, setting_of

COUNTERPARTS: Final = {
    Phase.BACKWARD: (
        TracedPhase.FORWARD,
        TracedPhase.LOSS,
        TracedPhase.LOSS_BACKWARD,
        TracedPhase.LAYERS_BACKWARD,
    ),
    Phase.BACKWARD_END: (TracedPhase.FIRST_LAYER_BACKWARD,),
    Phase.OPTIMIZER_STEP: (TracedPhase.OPTIMIZER_STEP,),
}
"""The closed form's phases in the oracle's: its backward phase is the highest point of four."""

NOT_ALLOCATED: Final = (Component.RUNTIME, Component.FRAGMENTATION)


@dataclass(frozen=True)
class Comparison:
    """Bytes predicted and traced."""

    name: str
    case: Case
    predicted: int
    traced: int
    traced_phase: str
    predicted_phases: dict[str, int]
    traced_phases: dict[str, int]
    seconds: float

    @property
    def error(self) -> float:
        """Signed, as a fraction of what was traced."""
        return self.predicted / self.traced - 1

    def phase_errors(self) -> dict[str, float]:
        """Signed errors of the closed form's phases, as fractions of the traced peak."""
        return {
            phase.value: (self.predicted_phases[phase.value] - traced) / self.traced
            for phase, parts in COUNTERPARTS.items()
            if (traced := max((self.traced_phases.get(part.value, 0) for part in parts), default=0))
        }


def compare(case: Case) -> Comparison | PlanError:
    """Return both figures; a PlanError where the closed form does not know the architecture."""
    architecture = architecture_of(case.config)
    if isinstance(architecture, PlanError):
        return architecture
    started = time.perf_counter()
    traced = trace(case.config, setting_of(case.workload, case.config))
    memory = estimate(architecture, case.workload)
    predicted = {
        phase.phase.value: sum(size for part, size in phase.components.items() if part not in NOT_ALLOCATED)
        for phase in memory.phases
        if phase.phase in COUNTERPARTS
    }
    return Comparison(
        name=case.name,
        case=case,
        predicted=max(predicted.values()),
        traced=traced.peak,
        traced_phase=traced.peak_phase.value,
        predicted_phases=predicted,
        traced_phases=phase_bytes(traced),
        seconds=time.perf_counter() - started,
    )


def phase_bytes(traced: Trace) -> dict[str, int]:
    """Return the peak of each traced phase in bytes."""
    return {phase.value: there.peak for phase, there in traced.phases.items()}


def summary(comparisons: Iterable[Comparison]) -> dict[str, Any]:
    """Return counts, median and largest error; fractions."""
    errors = [abs(each.error) for each in comparisons]
    return {
        "cases": len(errors),
        "median_abs_error": statistics.median(errors),
        "max_abs_error": max(errors),
        "within_2_percent": sum(error <= 0.02 for error in errors) / len(errors),
    }


def as_json(comparison: Comparison) -> dict[str, Any]:
    """Return one comparison for programs."""
    workload = {name: value for name, value in asdict(comparison.case.workload).items() if name != "software"}
    return {
        "name": comparison.name,
        "config": comparison.case.config,
        "workload": workload,
        "predicted_bytes": comparison.predicted,
        "traced_bytes": comparison.traced,
        "error": round(comparison.error, 5),
        "traced_phase": comparison.traced_phase,
        "phase_errors": {name: round(value, 5) for name, value in comparison.phase_errors().items()},
        "traced_phases": comparison.traced_phases,
        "predicted_phases": comparison.predicted_phases,
        "seconds": round(comparison.seconds, 2),
    }
