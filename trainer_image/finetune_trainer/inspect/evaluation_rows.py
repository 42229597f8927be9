"""What is learned about the rows to evaluate on: split off from the data set, or a data set of their own, read by the same rules."""

from __future__ import annotations

from collections.abc import Sequence

from finetune_operator.api.compatibility import LABELLING, Objective
from finetune_operator.api.exit_codes import ExitCode
from finetune_operator.api.inspection import EvaluationFacts
from finetune_operator.api.spec import FineTuneJobSpec
from finetune_trainer.dataset_files import find_files
from finetune_trainer.failures import TrainerFailure
from finetune_trainer.inspect.data_sets import SurveyedDataset
from finetune_trainer.inspect.row_models import JobRowModels
from finetune_trainer.inspect.survey import Limits, Survey, survey_rows
from finetune_trainer.inspect.verdict import check_rows, check_values
from finetune_trainer.rendering import read_rendered_rows
from finetune_trainer.row_decisions import key_of
from finetune_trainer.tokenizer_files import TokenizerFiles


def evaluation_facts(
    spec: FineTuneJobSpec,
    found: Sequence[SurveyedDataset],
    survey: Survey,
    tokenizer: TokenizerFiles,
    row_models: JobRowModels,
) -> tuple[EvaluationFacts | None, ...]:
    """Return the facts of each data set, None where none of its rows are evaluated; `survey` is that of all of them together.

    Raises:
        TrainerFailure: There are no rows to evaluate on, or too many of their own cannot be used.
    """
    if spec.evaluates and not survey.evaluated and not any(each.dataset.evaluation for each in found):
        raise TrainerFailure(
            ExitCode.BAD_DATA,
            f"dataset.split.evaluation takes none of the {survey.used} usable rows of {spec.data_uri}; raise it, or name rows of "
            "their own in dataset.evaluation",
        )
    return tuple(_facts(spec, each, survey, tokenizer, row_models) for each in found)


def _facts(
    spec: FineTuneJobSpec,
    found: SurveyedDataset,
    survey: Survey,
    tokenizer: TokenizerFiles,
    row_models: JobRowModels,
) -> EvaluationFacts | None:
    dataset = found.dataset
    source, evaluated = dataset.evaluation, found.survey.evaluated
    if source is None:
        return EvaluationFacts(rows=evaluated.total(), longest=max(evaluated)) if evaluated else None
    files = find_files(source.uri)
    _, rendered = read_rendered_rows(files.lines(), dataset, spec.layouts, tokenizer, together=spec.reads_together)
    training = spec.training
    limits = Limits(training.max_length, training.loss_on, training.truncation, None, dataset.filters)
    own = survey_rows(rendered, tokenizer, limits, models=row_models.of(dataset.filters))
    number = spec.all_datasets.index(dataset)
    row_models.note(key_of(number, evaluation=True), dataset.filters, own.decisions)
    refusal = check_rows(own, source.uri, dataset.filters.max_dropped)
    refusal = refusal or check_values(own, source.uri, spec.objective)
    refusal = refusal or _unknown_classes(own, survey, source.uri, spec.objective)
    if refusal is not None:
        raise refusal
    return EvaluationFacts(rows=own.used, dropped=own.dropped, longest=max(own.lengths), files=files.inputs)


def _unknown_classes(own: Survey, survey: Survey, uri: str, objective: Objective) -> TrainerFailure | None:
    unknown = sorted(own.labels.keys() - survey.labels.keys()) if objective in LABELLING else []
    if not unknown:
        return None
    return TrainerFailure(
        ExitCode.BAD_DATA,
        f"{len(unknown)} classes of {uri} (dataset.evaluation) are in no row that is learned from, the first is {unknown[0]}; remove these rows, "
        "or add rows of the class to dataset.uri",
    )
