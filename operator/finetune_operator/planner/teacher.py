"""The teacher of objective distill in a plan: how large it is, and what the plan says of it."""

from __future__ import annotations

from typing import Final

from finetune_operator.api.inspection import InspectionReport
from finetune_operator.api.plan import GIB, PlanError
from finetune_operator.api.reasons import Reason
from finetune_operator.api.spec import FineTuneJobSpec
from finetune_operator.memory.architecture import Architecture, architecture_of
from finetune_operator.memory.kinds import Teacher
from finetune_operator.memory.teacher import teacher_of, teacher_weights
from finetune_operator.memory.workload import Workload

ASSUMED: Final = "teacher: nothing was inspected, so that it is taken to be as large as the model that learns from it"


def teacher_in(
    spec: FineTuneJobSpec, inspection: InspectionReport | None, student: Architecture
) -> Teacher | PlanError | None:
    """Return the job's teacher, None where it has none, or why its memory is not known."""
    if spec.training.distill is None:
        return None
    if inspection is None or inspection.teacher is None:
        return teacher_of(student)
    facts = inspection.teacher
    architecture = architecture_of(facts.config, None)
    if not isinstance(architecture, PlanError):
        return teacher_of(architecture)
    return PlanError(
        reason=Reason.UNKNOWN_ARCHITECTURE,
        message=f"training.distill.teacher: the memory of {facts.uri} is not known ({architecture.message}); name a teacher of a type that "
        "`finetune estimate` knows",
    )


def stored_bytes(inspection: InspectionReport | None, teacher: Teacher | None) -> int:
    """Return the bytes of the teacher's files; 2 for each parameter where they were not inspected."""
    if inspection is not None and inspection.teacher is not None:
        return inspection.teacher.weight_bytes
    return 0 if teacher is None else 2 * teacher.parameters


def teacher_reason(spec: FineTuneJobSpec, workload: Workload) -> str | None:
    """Return what the plan says of the teacher."""
    if spec.training.distill is None:
        return None
    return (
        f"teacher: {spec.training.distill.teacher.uri}, {teacher_weights(workload) / GIB:.2f} GiB of weights whole in every process, one forward "
        "pass of each batch"
    )
