"""Knowledge distillation (objective distill): rows and answers as of supervised fine-tuning, and a teacher that is asked about every token."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from finetune_operator.api.plan import AttemptFile
from finetune_trainer.objectives.recipe import Parts
from finetune_trainer.objectives.supervised import Supervised

if TYPE_CHECKING:
    from finetune_trainer.job_context import JobContext


class _Distillation(Supervised):
    measures = {**Supervised.measures, "teacher_kl": "teacher_kl"}  # noqa: RUF012 - never changed
    held_out = measures

    def trainer(self, context: JobContext, configuration: Any, parts: Parts) -> Any:
        from finetune_trainer.objectives.distillation_trainer import DistillationTrainer, load_teacher

        if context.teacher is None:
            raise AssertionError("the rank has fetched the teacher")
        # Before the trainer sets its seed: whatever loading draws, the training does not depend on it.
        teacher = load_teacher(context.attempt, context.teacher)
        return DistillationTrainer(context, teacher, **parts.arguments(configuration))


def teacher_dtype(attempt: AttemptFile) -> str:
    """Return the numbers of the teacher's weights: those that are computed in."""
    return "float32" if attempt.spec.training.precision == "fp32" else "bfloat16"


def teacher_of(folder: Path, attempt: AttemptFile, device: Any = None) -> Any:
    """Return the model in `folder`, whole on `device` (None: in host memory) and frozen."""
    import torch
    from transformers import AutoModelForCausalLM

    from finetune_trainer.modeling import name_backbone

    distill = attempt.spec.training.distill
    model = AutoModelForCausalLM.from_pretrained(
        folder,
        dtype=getattr(torch, teacher_dtype(attempt)),
        local_files_only=True,
        trust_remote_code=distill is not None and distill.teacher.trust_remote_code,
        **({} if device is None else {"device_map": {"": device}}),
    )
    name_backbone(model)
    return model.eval().requires_grad_(False)


RECIPE: Final = _Distillation()
