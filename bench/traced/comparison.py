"""One case both ways: what the closed form predicts and what the oracle traced, phase by phase."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, Final

from finetune_operator.api.plan import Component, Phase, PlanError
from finetune_operator.memory.architecture import Head, architecture_of
from finetune_operator.memory.estimate import estimate
from finetune_operator.memory.kinds import Goal
from finetune_operator.memory.runtime import communication_bytes
from finetune_trainer.oracle.peak_tracker import TracedPhase
from finetune_trainer.oracle.step import trace
from traced.cases import Case, setting_of
from traced.configurations import ENCODERS
from traced.store import TracedCase

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
    """Bytes predicted, by phase of the closed form, and traced."""

    case: Case
    predicted_phases: dict[str, int]
    traced: TracedCase

    @property
    def name(self) -> str:
        """The case's name, such as llama-3."""
        return self.case.name

    @property
    def predicted(self) -> int:
        """The highest phase."""
        return max(self.predicted_phases.values())

    @property
    def error(self) -> float:
        """Signed, as a fraction of what was traced."""
        return self.predicted / self.traced.peak - 1

    def phase_errors(self) -> dict[str, float]:
        """Signed errors of the closed form's phases, as fractions of the traced peak."""
        return {
            phase.value: (self.predicted_phases[phase.value] - traced) / self.traced.peak
            for phase, parts in COUNTERPARTS.items()
            if (traced := max((self.traced.phases.get(part.value, 0) for part in parts), default=0))
        }


def traced_case(case: Case) -> TracedCase:
    """Run the oracle: seconds on one core, whatever the widths."""
    found = trace(case.config, setting_of(case.workload, case.config))
    return TracedCase({phase.value: there.peak for phase, there in found.phases.items()})


def predicted_phases(case: Case) -> dict[str, int] | PlanError:
    """Return the closed form's bytes by phase; a PlanError where it does not know the architecture."""
    classifies = case.workload.goal is Goal.CLASSIFICATION and case.config["model_type"] in ENCODERS
    architecture = architecture_of(case.config, head=Head.SEQUENCE_CLASSIFICATION if classifies else None)
    if isinstance(architecture, PlanError):
        return architecture
    # NCCL's buffers are none of torch's allocator.
    beside = communication_bytes(case.workload)
    return {
        phase.phase.value: sum(size for part, size in phase.components.items() if part not in NOT_ALLOCATED) - beside
        for phase in estimate(architecture, case.workload).phases
        if phase.phase in COUNTERPARTS
    }


def compare(case: Case, traced: TracedCase) -> Comparison | PlanError:
    """Put the closed form beside a trace."""
    predicted = predicted_phases(case)
    return predicted if isinstance(predicted, PlanError) else Comparison(case, predicted, traced)


def summary(comparisons: Iterable[Comparison]) -> dict[str, Any]:
    """Return counts, median and largest error; fractions."""
    found = list(comparisons)
    errors = [abs(each.error) for each in found]
    return {
        "cases": len(errors),
        "median_abs_error": statistics.median(errors),
        "max_abs_error": max(errors),
        "worst": max(found, key=lambda each: abs(each.error)).name,
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
        "traced_bytes": comparison.traced.peak,
        "error": round(comparison.error, 5),
        "traced_phase": comparison.traced.peak_phase,
        "phase_errors": {name: round(value, 5) for name, value in comparison.phase_errors().items()},
        "traced_phases": dict(comparison.traced.phases),
        "predicted_phases": comparison.predicted_phases,
    }
