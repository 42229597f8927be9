"""Settings of objective distill."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from finetune_operator.api.locations import Location, startable
from finetune_operator.api.model import Rule, SpecModel

TEACHER_FIELD = "training.distill.teacher"


class Teacher(SpecModel):
    """The model that is learned from; it is not trained."""

    uri: Location = Field(
        description="Where it is: hf://org/name, or a folder at s3://, gs://, az:// (file:// in local runs); or ftj://NAME, the result of the job "
        "NAME of this namespace, which this one waits for. Its tokenizer must have the student's vocabulary."
    )
    revision: str = Field(
        "main",
        max_length=200,
        description="Branch, tag or commit of an hf:// model; the inspection resolves it to a commit. Default main.",
    )
    trust_remote_code: bool = Field(
        False,
        description="Run Python code that the teacher's repository brings. Default false: such a model is refused.",
    )

    rules: ClassVar[tuple[Rule, ...]] = (startable(f"{TEACHER_FIELD}.uri"),)


class Distill(SpecModel):
    """Knowledge distillation by logits (arXiv 1503.02531) on the answers that the rows have."""

    teacher: Teacher = Field(description="The model whose distribution over the next token is learned.")
    temperature: float = Field(
        1.0,
        gt=0,
        le=20,
        description="Logits of both models are divided by it before they are compared, and the divergence is multiplied by its square, so that "
        "its gradients keep their size (arXiv 1503.02531, §2). A larger one looks more at what the teacher finds unlikely. Default 1.",
    )
    cross_entropy_weight: float = Field(
        0.5,
        ge=0,
        lt=1,
        description="Share of the rows' own answers in the loss (their cross-entropy); the rest is the teacher's divergence. Default 0.5.",
    )
