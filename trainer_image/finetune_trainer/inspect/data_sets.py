"""What is learned about the data sets of a job: each is read by its own settings, and their numbers are added up for the plan."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from typing import Final, NamedTuple

from finetune_operator.api.compatibility import Objective
from finetune_operator.api.datasets import WeightedDataset
from finetune_operator.api.inspection import (
    EXAMPLES_KEPT,
    DatasetFacts,
    EvaluationFacts,
    RowProblem,
    ScoreRange,
    SourceFacts,
)
from finetune_operator.api.packing import packed_rows
from finetune_operator.api.spec import FineTuneJobSpec
from finetune_trainer.dataset_files import DatasetFiles, find_files
from finetune_trainer.inspect.histogram import histogram
from finetune_trainer.inspect.labels import in_order
from finetune_trainer.inspect.row_models import JobRowModels
from finetune_trainer.inspect.survey import PROBLEMS_KEPT, REASONS_KEPT, Limits, Survey, survey_rows
from finetune_trainer.rendering import read_rendered_rows
from finetune_trainer.rewards.model_files import InspectedRewardModel, rows_it_can_read
from finetune_trainer.row_decisions import key_of
from finetune_trainer.seen import SeenDigests
from finetune_trainer.tokenizer_files import TokenizerFiles

logger = logging.getLogger(__name__)

OTHERS: Final = "other reasons"


class SurveyedDataset(NamedTuple):
    """A data set and what stands in it."""

    dataset: WeightedDataset
    layout: str
    files: DatasetFiles
    survey: Survey


def survey_datasets(
    spec: FineTuneJobSpec,
    tokenizer: TokenizerFiles,
    row_models: JobRowModels,
    judges: Sequence[InspectedRewardModel] = (),
) -> tuple[SurveyedDataset, ...]:
    """Read every row of every data set, in their order. Rows that are equal to one of an earlier data set are duplicates too.

    Raises:
        TrainerFailure: A data set cannot be read, or one of the reward models `judges` cannot read a prompt.
    """
    seen, training = SeenDigests(), spec.training
    found = []
    for number, dataset in enumerate(spec.all_datasets):
        files = find_files(dataset.uri)
        layout, rows = read_rendered_rows(files.lines(), dataset, spec.layouts, tokenizer, together=spec.reads_together)
        if judges:
            rows = rows_it_can_read(rows, judges)
        limits = Limits(
            training.max_length,
            training.loss_on,
            training.truncation,
            dataset.split,
            dataset.filters,
            training.online,
            dataset.weight,
            training.seed,
        )
        survey = survey_rows(rows, tokenizer, limits, seen, row_models.of(dataset.filters))
        row_models.note(key_of(number, evaluation=False), dataset.filters, survey.decisions)
        if spec.datasets is not None:
            # Files of two data sets may have one name.
            uris = {file.name: file.uri for file in files.found}
            survey.problems = [_at(uris, problem) for problem in survey.problems]
            survey.left_out = [_at(uris, row) for row in survey.left_out]
        logger.info("data set %s: %s, %d rows, %d dropped", dataset.uri, layout.layout, survey.rows, survey.dropped)
        found.append(SurveyedDataset(dataset, layout.layout, files, survey))
    return tuple(found)


def _at(uris: dict[str, str], row: RowProblem) -> RowProblem:
    return row.model_copy(update={"file": uris.get(row.file, row.file)})


def together(surveys: Sequence[Survey]) -> Survey:
    """Return what all data sets hold; of what is kept only in part, as much of each."""
    if len(surveys) == 1:
        return surveys[0]
    kept = PROBLEMS_KEPT // len(surveys)
    made = Survey()
    for each in surveys:
        made.lengths += each.lengths
        for side, lengths in each.sides.items():
            made.sides.setdefault(side, Counter()).update(lengths)
        made.labels.update(each.labels)  # += would lose those that weights leave out
        made.problems += each.problems[:kept]
        made.left_out += each.left_out[:kept]
        made.evaluated += each.evaluated
        made.filtered_by_reason += each.filtered_by_reason
        for reason, count in each.dropped_by_reason.items():
            known = reason in made.dropped_by_reason or len(made.dropped_by_reason) < REASONS_KEPT
            made.dropped_by_reason[reason if known else OTHERS] += count
        for number in ("used", "dropped", "truncated", "duplicates", "filtered"):
            setattr(made, number, getattr(made, number) + getattr(each, number))
        if each.scores is not None:
            least, most = made.scores or each.scores
            made.scores = min(least, each.scores[0]), max(most, each.scores[1])
    return made


def dataset_facts(
    spec: FineTuneJobSpec,
    found: Sequence[SurveyedDataset],
    survey: Survey,
    evaluation: Sequence[EvaluationFacts | None],
) -> DatasetFacts:
    """Return what the plan is made of, given the survey of all of them together and each one's rows to evaluate on."""
    examples = EXAMPLES_KEPT // len(found)
    return DatasetFacts(
        uri=spec.data_uri,
        format=", ".join(dict.fromkeys(each.layout for each in found)),
        sources=() if spec.datasets is None else tuple(map(_source_facts, found, evaluation)),
        files=tuple(file for each in found for file in each.files.inputs),
        rows=survey.rows,
        documents=survey.used if spec.objective is Objective.PRETRAIN else None,
        evaluation=_sum(evaluation),
        dropped=survey.dropped,
        dropped_by_reason=dict(survey.dropped_by_reason.most_common()),
        filtered=survey.filtered,
        filtered_by_reason=dict(survey.filtered_by_reason.most_common()),
        problems=tuple(problem for each in found for problem in each.survey.problems[:examples]),
        truncated=survey.truncated,
        duplicates=survey.duplicates,
        tokens=histogram(survey.lengths),
        sides={side: histogram(lengths) for side, lengths in survey.sides.items()},
        labels=in_order(survey.labels),
        scores=None if survey.scores is None else ScoreRange(minimum=survey.scores[0], maximum=survey.scores[1]),
        packed=packed_rows(survey.lengths, spec.training.max_length),
    )


def _source_facts(found: SurveyedDataset, evaluation: EvaluationFacts | None) -> SourceFacts:
    survey = found.survey
    return SourceFacts(
        uri=found.dataset.uri,
        format=found.layout,
        weight=found.dataset.weight,
        files=found.files.inputs,
        usable=survey.used,
        rows=survey.rows,
        evaluated=evaluation.rows if evaluation else 0,
        dropped=survey.dropped,
        dropped_by_reason=dict(survey.dropped_by_reason.most_common()),
        filtered=survey.filtered,
    )


def _sum(evaluation: Sequence[EvaluationFacts | None]) -> EvaluationFacts | None:
    known = [each for each in evaluation if each is not None]
    if not known:
        return None
    return EvaluationFacts(
        rows=sum(each.rows for each in known),
        dropped=sum(each.dropped for each in known),
        longest=max(each.longest for each in known),
        files=tuple(file for each in known for file in each.files),
    )
