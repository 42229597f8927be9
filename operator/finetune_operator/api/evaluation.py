"""Rows that are kept from training, and when the loss is measured on them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar, Final, Literal

from pydantic import Field

from finetune_operator.api.evaluators import Entailment, Harness, Judge
from finetune_operator.api.locations import Location, readable
from finetune_operator.api.measures import HELD_OUT_MEASURES
from finetune_operator.api.model import Rule, SpecModel, text_rule
from finetune_operator.api.words import Word

EVALUATIONS: Final = 10
"""How often a run evaluates where the spec does not say."""


class Split(SpecModel):
    """A share of the rows that is kept from training."""

    evaluation: float = Field(
        gt=0,
        lt=1,
        description="The share of rows (0 to 1) that is evaluated and never trained. Equal rows stay together.",
    )
    seed: int = Field(42, ge=0, le=2147483647, description="Decides which rows these are. Default 42.")


class EvaluationSource(SpecModel):
    """Rows of their own to evaluate on."""

    uri: Location = Field(description="Where they are, in the layout of the data set and in any of its file formats.")

    rules: ClassVar[tuple[Rule, ...]] = (
        readable("dataset.evaluation.uri", "s3://bucket/rows.jsonl or hf://datasets/org/name/rows.jsonl"),
    )


class EarlyStopping(SpecModel):
    """When a training that no longer gets better ends before its last step."""

    metric: Literal["eval_loss"] = Field(
        "eval_loss", description="What has to get better: eval_loss, lower. Default eval_loss."
    )
    patience: int = Field(
        ge=1, le=1000, description="After how many evaluations in a row without a better one the training ends."
    )

    def is_over(self, step: int, best_step: int, interval: int) -> bool:
        """Whether the training ends after the evaluation of `step`, when the best one was that of `best_step`."""
        return (step - best_step) // interval >= self.patience


class Metric(Word):
    """What is measured of the finished model."""

    PERPLEXITY = "perplexity"
    EXACT_MATCH = "exact_match"
    F1 = "f1"
    ROUGE = "rouge"
    BLEU = "bleu"
    JUDGE = "judge"
    ENTAILMENT = "entailment"


METRIC_MEANINGS: Final[Mapping[Metric, str]] = MappingProxyType(
    {
        Metric.PERPLEXITY: "e to the mean loss per counted token; lower is better",
        Metric.EXACT_MATCH: "share of answers that are the row's, but for case, punctuation, articles and spaces (SQuAD)",
        Metric.F1: "words that an answer and the row's have in common (SQuAD), mean of the answers' F1",
        Metric.ROUGE: "rouge1, rouge2 and rougeL: mean F of common words, word pairs and subsequences, stemmed (rouge-score)",
        Metric.BLEU: "BLEU of all answers together, 0 to 100 (sacrebleu)",
        Metric.JUDGE: "mean score from 1 to 5 that the model at evaluation.judge gives the answers",
        Metric.ENTAILMENT: "share of answers that follow from the row's, by the model at evaluation.entailment",
    }
)
FIGURES: Final[Mapping[str, Metric]] = MappingProxyType(
    {
        "perplexity": Metric.PERPLEXITY,
        "exact_match": Metric.EXACT_MATCH,
        "f1": Metric.F1,
        "rouge1": Metric.ROUGE,
        "rouge2": Metric.ROUGE,
        "rougeL": Metric.ROUGE,
        "bleu": Metric.BLEU,
        "judge": Metric.JUDGE,
        "entailment": Metric.ENTAILMENT,
    }
)
"""Every number that comes out → the metric that it is of."""

HELD_OUT_FIGURES: Final = tuple(dict.fromkeys(name for names in HELD_OUT_MEASURES.values() for name in names))
"""Every number of the evaluation of the last step that can be required."""

JUDGE_FAILURES: Final = "judge_failures"
"""Number of answers that the judge gave no usable score; told beside `judge`."""
_COMPARISON: Final = "^(>=|<=|>|<)[0-9]+([.][0-9]+)?$"


def _needed(figure: str, example: str = ">=0.4") -> str | None:
    return Field(None, max_length=20, alias=figure, description=f"What {figure} has to be, such as {example}.")


def _measured(figure: str, metric: Metric) -> Rule:
    def holds(evaluation: Any) -> bool:
        return evaluation.require is None or figure not in evaluation.require.given or metric in evaluation.metrics

    return Rule(
        cel=f"!has(self.require) || !has(self.require.{figure}) || (has(self.metrics) && '{metric}' in self.metrics)",
        message=f"evaluation.require: {figure} is not measured; add {metric} to evaluation.metrics, or remove it",
        holds=holds,
    )


class RequiredMeasure(SpecModel):
    """What one measure of a task has to reach."""

    name: str = Field(
        max_length=300,
        description="<task>.<measure>, as status.evaluation has it.",
    )
    required: str = Field(max_length=20, description="Such as >=0.4.")

    rules: ClassVar[tuple[Rule, ...]] = (
        text_rule(
            "required",
            "required",
            _COMPARISON,
            "evaluation.require.tasks: write a comparison and a number, such as '>=0.4'",
        ),
    )


class Requirements(SpecModel):
    """What the tuned model has to reach to be published: per number a comparison with a bound."""

    perplexity: str | None = _needed("perplexity", "<12")
    exact_match: str | None = _needed("exact_match")
    f1: str | None = _needed("f1")
    rouge1: str | None = _needed("rouge1")
    rouge2: str | None = _needed("rouge2")
    rouge_l: str | None = _needed("rougeL")
    bleu: str | None = _needed("bleu")
    judge: str | None = _needed("judge")
    entailment: str | None = _needed("entailment")

    loss: str | None = _needed("loss", "<0.3")
    reward_accuracy: str | None = _needed("reward_accuracy")
    reward_margin: str | None = _needed("reward_margin")
    accuracy: str | None = _needed("accuracy")
    macro_f1: str | None = _needed("macro_f1")
    entity_precision: str | None = _needed("entity_precision")
    entity_recall: str | None = _needed("entity_recall")
    entity_f1: str | None = _needed("entity_f1")
    spearman: str | None = _needed("spearman")
    retrieval_accuracy: str | None = _needed("retrieval_accuracy")
    pair_accuracy: str | None = _needed("pair_accuracy")

    tasks: tuple[RequiredMeasure, ...] = Field(
        (), max_length=20, description="The same for tasks of evaluation.harness."
    )

    rules: ClassVar[tuple[Rule, ...]] = tuple(
        text_rule(
            figure,
            "rouge_l" if figure == "rougeL" else figure,
            _COMPARISON,
            f"evaluation.require.{figure}: write a comparison and a number, such as '>=0.4'",
        )
        for figure in (*FIGURES, *HELD_OUT_FIGURES)
    )

    @property
    def given(self) -> dict[str, str]:
        """Number → comparison, of those that are set."""
        own = self.model_dump(by_alias=True, exclude_none=True, exclude={"tasks"})
        return {**own, **{task.name: task.required for task in self.tasks}}


def _are_of_tasks(evaluation: Evaluation) -> bool:
    named = evaluation.require.tasks if evaluation.require else ()
    tasks = evaluation.harness.tasks if evaluation.harness else ()
    return all(any(each.name.startswith(f"{task}.") for task in tasks) for each in named)


class Evaluation(SpecModel):
    """How the model is judged."""

    every: int | None = Field(
        None,
        ge=1,
        description="After how many optimizer steps the loss on the evaluation rows is measured; after the last step always, of objective embedding "
        "before the first one, too. Default: ten times in a run.",
    )
    metrics: tuple[Metric, ...] = Field(
        (),
        max_length=10,
        description="What is measured after the training, on the evaluation rows, of the base model and of the tuned one: "
        + "; ".join(f"{metric}, {meaning}" for metric, meaning in METRIC_MEANINGS.items())
        + ". Default: nothing.",
    )
    max_rows: int = Field(
        200, ge=1, le=100_000, description="On how many of the evaluation rows, the first ones. Default 200."
    )
    max_new_tokens: int = Field(
        256, ge=1, le=8192, description="How long an answer may get that is compared with the row's. Default 256."
    )
    require: Requirements | None = Field(
        None,
        description="What the tuned model has to reach, or it is not published: numbers of metrics and harness, or those that the objective measures "
        "of the evaluation rows. Default: nothing.",
    )

    judge: Judge | None = Field(
        None,
        description="Who scores answers for metric judge; its key is OPENAI_API_KEY in the Secret of credentials.judge.",
    )
    entailment: Entailment | None = Field(None, description="The model that metric entailment asks.")
    harness: Harness | None = Field(
        None,
        description="Tasks of lm-evaluation-harness on which base and tuned model are measured as well. Default: none.",
    )

    rules: ClassVar[tuple[Rule, ...]] = (
        *(_measured(figure, metric) for figure, metric in FIGURES.items()),
        Rule(
            cel="!has(self.require) || !has(self.require.tasks) || self.require.tasks.size() == 0 || (has(self.harness) && "
            "self.require.tasks.all(each, self.harness.tasks.exists(task, each.name.startsWith(task + '.'))))",
            message="evaluation.require.tasks: a name is <task>.<measure> of a task in evaluation.harness.tasks; add the task there, or remove it",
            holds=lambda evaluation: _are_of_tasks(evaluation),
        ),
        Rule(
            cel="has(self.judge) == (has(self.metrics) && 'judge' in self.metrics)",
            message="evaluation.judge: metric judge and the block judge belong together; set both, or remove both",
            holds=lambda evaluation: (evaluation.judge is not None) == (Metric.JUDGE in evaluation.metrics),
        ),
        Rule(
            cel="has(self.entailment) == (has(self.metrics) && 'entailment' in self.metrics)",
            message="evaluation.entailment: metric entailment and the block entailment belong together; set both, or remove both",
            holds=lambda evaluation: (evaluation.entailment is not None) == (Metric.ENTAILMENT in evaluation.metrics),
        ),
    )

    @property
    def after_training(self) -> bool:
        """Whether anything is measured after the training."""
        return bool(self.metrics) or self.harness is not None

    @property
    def generates(self) -> bool:
        """Whether answers are generated for it."""
        return any(metric is not Metric.PERPLEXITY for metric in self.metrics)


@dataclass(frozen=True)
class EvaluationTimes:
    """After which steps of a run it evaluates."""

    every: int | None
    total_steps: int

    @property
    def interval(self) -> int:
        """Steps from one evaluation to the next."""
        return self.every or max(1, -(-self.total_steps // EVALUATIONS))

    def is_due(self, step: int) -> bool:
        """Whether the evaluation rows are looked at after this step."""
        return step > 0 and (step % self.interval == 0 or step >= self.total_steps)
