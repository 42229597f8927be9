"""Others' models and tasks by which a finished model is measured: a judge, an entailment classifier, and tasks of lm-evaluation-harness."""

from __future__ import annotations

from typing import ClassVar, Final

from pydantic import Field

from finetune_operator.api.locations import Location, ObjectName, readable
from finetune_operator.api.model import Rule, SpecModel, text_rule

ENTAILMENT_WORK_BYTES: Final = 512 * 2**20
"""What sixteen pairs of 512 tokens hold beside the weights in a layer of roberta-large's size (1,024 wide, 4,096 within, float32): stream and
attention 5 × 32 MiB, the layer's inside 2 × 128 MiB, rounded up. Arithmetic, not measured on a GPU."""

CRITERIA: Final = (
    "The answer says what the reference answer says, without errors or contradictions, and answers the question: all of it, "
    "and nothing beside the point."
)


class Judge(SpecModel):
    """A language model that scores answers, behind an endpoint that speaks OpenAI's chat completions. It is sent prompts, answers and references."""

    url: str = Field(max_length=512, description="The endpoint's base, to which /chat/completions is added.")
    model: str = Field(min_length=1, max_length=200, description="The model's name there.")
    criteria: str = Field(
        CRITERIA,
        min_length=1,
        max_length=4000,
        description="What a good answer is, in words for the judge. Default: that it says what the reference says and answers the question.",
    )
    timeout_seconds: int = Field(60, ge=1, le=600, description="How long one answer of the judge may take. Default 60.")

    rules: ClassVar[tuple[Rule, ...]] = (
        text_rule(
            "url",
            "url",
            "^https?://[!-~]+$",
            "evaluation.judge.url: write the base of an OpenAI-compatible endpoint, such as https://api.openai.com/v1",
        ),
    )


class Entailment(SpecModel):
    """A model that tells whether one text follows from another; it runs beside the trained one."""

    uri: Location = Field(
        description="A sequence classification model with a class entailment: hf://, s3://, gs://, az://."
    )
    revision: str = Field("main", max_length=100, description="Branch, tag or commit of an hf:// model. Default main.")

    rules: ClassVar[tuple[Rule, ...]] = (readable("evaluation.entailment.uri", "hf://org/name"),)


class Harness(SpecModel):
    """Tasks of lm-evaluation-harness that lie in a folder with their rows; none is fetched from elsewhere."""

    uri: Location = Field(
        description="The folder: task files (YAML) and rows, whose paths in task files are relative to it. What it has of Python is run."
    )
    tasks: tuple[ObjectName, ...] = Field(
        min_length=1, max_length=10, description="Which of its tasks, by the name in their files."
    )
    few_shot: int = Field(
        0, ge=0, le=100, description="How many solved examples stand before each question. Default 0."
    )

    rules: ClassVar[tuple[Rule, ...]] = (readable("evaluation.harness.uri", "s3://bucket/tasks"),)
