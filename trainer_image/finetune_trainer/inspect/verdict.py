"""Whether a data set is good enough to train on, in words that a person can act on. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from finetune_operator.api.compatibility import LABELLING, Objective
from finetune_operator.api.exit_codes import ExitCode
from finetune_trainer.failures import TrainerFailure
from finetune_trainer.inspect.data_sets import SurveyedDataset
from finetune_trainer.inspect.survey import Survey

PROBLEMS_NAMED: Final = 5
LEAST_CLASSES: Final = 2


def check_data(found: Sequence[SurveyedDataset], survey: Survey, objective: Objective) -> TrainerFailure | None:
    """Return why the job cannot go on with these data sets, or None; `survey` is that of all of them together."""
    for dataset, _, _, own in found:
        if (refusal := check_rows(own, dataset.uri, dataset.filters.max_dropped)) is not None:
            return refusal
    uris = ", ".join(each.dataset.uri for each in found)
    layouts = dict.fromkeys(each.layout for each in found)
    if objective is Objective.EMBEDDING and len(layouts) > 1:
        return TrainerFailure(
            ExitCode.BAD_DATA,
            f"{uris} are of formats {', '.join(layouts)}, and objective: embedding has another loss for each format; give one format to a job, "
            "and start a second job from the result of the first (model.uri: ftj://NAME)",
        )
    return check_values(survey, uris, objective)


def check_rows(survey: Survey, uri: str, max_dropped: float) -> TrainerFailure | None:
    """Return why the job cannot go on with the rows of one data set, or None."""
    read = survey.used + survey.evaluated.total() + survey.filtered + survey.dropped
    if read == 0:
        return TrainerFailure(ExitCode.BAD_DATA, f"dataset.uri {uri} has no rows; check that it is the right file")
    if survey.used == 0 and survey.filtered:
        reasons = ", ".join(f"{reason} ({count})" for reason, count in survey.filtered_by_reason.most_common(3))
        return TrainerFailure(
            ExitCode.BAD_DATA, f"dataset.filters leave out every usable row of {uri}: {reasons}; make them less strict"
        )
    if survey.used == 0 and survey.evaluated:
        return TrainerFailure(
            ExitCode.BAD_DATA, f"all usable rows of {uri} are evaluation rows; lower dataset.split.evaluation"
        )
    if survey.used == 0:
        return TrainerFailure(
            ExitCode.BAD_DATA,
            f"none of the {read} rows of {uri} can be used: {_named(survey)}; check dataset.format and dataset.columns",
        )
    if survey.dropped > max_dropped * read:
        return TrainerFailure(
            ExitCode.BAD_DATA,
            f"{survey.dropped} of {read} rows of {uri} ({survey.dropped / read:.2%}) cannot be used, "
            f"dataset.filters.maxDropped allows {max_dropped:.2%}: {_named(survey)}; mend or remove these rows, or raise "
            "dataset.filters.maxDropped",
        )
    if survey.rows == 0:
        return TrainerFailure(
            ExitCode.BAD_DATA,
            f"the weight of {uri} takes none of its {survey.used} usable rows; raise it, or remove the data set",
        )
    return None


def check_values(survey: Survey, uri: str, objective: Objective) -> TrainerFailure | None:
    """Return why nothing can be learned from what the rows of all data sets say together, or None."""
    if objective in LABELLING and len(+survey.labels) < LEAST_CLASSES:
        return TrainerFailure(
            ExitCode.BAD_DATA,
            f"all {survey.rows} rows of {uri} have the same class, so that there is nothing to tell apart; name the column of the classes in "
            "dataset.columns",
        )
    if survey.scores is not None and survey.scores[0] == survey.scores[1]:
        return TrainerFailure(
            ExitCode.BAD_DATA,
            f"all {survey.rows} rows of {uri} have the same score, so that there is no order to learn; name the column of the scores in "
            "dataset.columns, or use rows of format pair, whose texts simply belong together",
        )
    if objective is Objective.RERANKER and survey.scores is not None and survey.scores[0] < 0:
        return TrainerFailure(
            ExitCode.BAD_DATA,
            f"the least score of {uri} is {survey.scores[0]:g}, and objective: reranker learns probabilities; shift the scores to 0 and above "
            "(those above 1 are divided by the largest), or use objective: embedding, whose cosines may be negative",
        )
    return None


def _named(survey: Survey) -> str:
    first = "; ".join(f"{item.file}:{item.line}: {item.reason}" for item in survey.problems[:PROBLEMS_NAMED])
    more = survey.dropped - PROBLEMS_NAMED
    return first if more <= 0 else f"{first}; and {more} more"
