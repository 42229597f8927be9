"""`python -m finetune_trainer evaluate`: the final checkpoint measured beside the base model, the result written into the bucket.

It can be run again at any time: what was measured of this checkpoint is left as it is.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

from finetune_operator.api.chat_templates import END_OF_TURN
from finetune_operator.api.constants import JUDGE_KEY_VARIABLE
from finetune_operator.api.evaluated import Evaluated, Figure
from finetune_operator.api.evaluation import FIGURES, JUDGE_FAILURES, Evaluation, Metric
from finetune_operator.api.evaluators import Harness
from finetune_operator.api.exit_codes import ExitCode
from finetune_operator.api.plan import AttemptFile
from finetune_operator.api.run_events import EvaluatedEvent
from finetune_trainer.after_training.entailment import entailed_share
from finetune_trainer.after_training.gpu_memory import fitting
from finetune_trainer.after_training.harness import fetch_tasks, harness_figures
from finetune_trainer.after_training.held_out import held_out_evaluation
from finetune_trainer.after_training.progress import EvaluationProgress
from finetune_trainer.after_training.results import keep, read_evaluated
from finetune_trainer.after_training.rows import JudgedRows, judged_rows
from finetune_trainer.attempt import Workplace, read_attempt
from finetune_trainer.entailment_model import entailment_source
from finetune_trainer.events import EventLog
from finetune_trainer.export import exported
from finetune_trainer.failures import TrainerFailure, calls_of, failure_of
from finetune_trainer.final_checkpoint import final_checkpoint
from finetune_trainer.inputs import fetch_adapter, fetch_model, go_offline, model_source
from finetune_trainer.model_files import local_model
from finetune_trainer.rank_files import RankError
from finetune_trainer.storage import open_writable


def evaluate(plan_path: Path) -> int:
    """Evaluate and return the exit code; an error is written where `launch` finds it."""
    os.dup2(sys.stdout.fileno(), sys.stderr.fileno())
    attempt = read_attempt(plan_path)
    workplace = Workplace.of(attempt)
    try:
        evaluated = evaluate_attempt(attempt, workplace)
    except Exception as error:  # whatever it is, launch is told
        failure = failure_of(error)
        if not isinstance(error, TrainerFailure):
            print(calls_of(error), flush=True)
        print(f"the evaluation ends with {failure.exit_code}: {failure.message}", flush=True)
        workplace.run.write_error(
            RankError(
                rank=0,
                time=time.time(),
                exit_code=failure.exit_code,
                reason=failure.reason,
                message=f"evaluation after the training: {failure.message}",
                step=attempt.plan.total_steps,
            )
        )
        return int(failure.exit_code)
    workplace.run.write_evaluated(evaluated)
    EventLog().write(EvaluatedEvent(evaluated=evaluated))
    return int(ExitCode.OK)


def evaluate_attempt(attempt: AttemptFile, workplace: Workplace) -> Evaluated:
    """Return what the final checkpoint is worth; measured now, or by an attempt before."""
    if attempt.spec.held_out_measures:
        return held_out_evaluation(attempt, workplace)
    storage = open_writable(attempt.checkpoint_uri)
    manifest = final_checkpoint(attempt, workplace)
    known = read_evaluated(storage, attempt.uid)
    if known is not None and known.step == manifest.step:
        print(f"step {known.step} has been evaluated already", flush=True)
        return known
    started = time.monotonic()
    base = fetch_model(attempt, workplace)
    spec = attempt.spec.evaluation
    rows = judged_rows(attempt) if spec.metrics else JudgedRows(0, (), ())
    beside = Beside(
        local_model(entailment_source(spec.entailment), workplace.work / "entailment") if spec.entailment else None,
        fetch_tasks(spec.harness, workplace.work / "tasks") if spec.harness else None,
        fetch_adapter(attempt, workplace),
    )
    if attempt.spec.evaluation.generates and not rows.questions:
        raise TrainerFailure(
            ExitCode.BAD_DATA,
            f"none of the {rows.rows} evaluation rows has an answer in words to compare with; remove the metrics but perplexity, or name other rows",
        )
    go_offline()
    with EvaluationProgress(attempt, workplace.run, step=manifest.step, started=started) as progress:
        progress.serve(attempt.metrics_port)
        with fitting("evaluation", "remove evaluation.metrics and evaluation.harness"):
            found = _measured(attempt, base, exported(workplace.resume), rows, beside, progress)
    figures = tuple(
        Figure(name=name, base=found["base"].get(name), tuned=found["tuned"][name])
        for name in sorted(found["tuned"], key=_place)
    )
    seconds = time.monotonic() - started
    evaluated = Evaluated(
        uid=attempt.uid, step=manifest.step, rows=rows.rows, seconds=round(seconds, 2), figures=figures
    )
    keep(storage, evaluated)
    return evaluated


class Beside(NamedTuple):
    """Local folders of what others made for the measuring."""

    entailment: Path | None
    tasks: Path | None
    initial_adapter: Path | None
    """Of the result that the training went on from."""


def _place(name: str) -> tuple[int, str]:
    """Return where a number stands: metrics in their order, then tasks by name."""
    known = (*FIGURES, JUDGE_FAILURES)
    return (known.index(name), "") if name in known else (len(known), name)


def _measured(
    attempt: AttemptFile, base: Path, export: Path, rows: JudgedRows, beside: Beside, progress: EvaluationProgress
) -> dict[str, dict[str, float]]:
    import transformers

    from finetune_trainer.after_training.asking import answers_of, perplexity_of
    from finetune_trainer.after_training.models import compared_models
    from finetune_trainer.after_training.scores import OF_ANSWERS
    from finetune_trainer.modeling import load_tokenizer

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    spec, batch = attempt.spec.evaluation, max(1, attempt.plan.evaluation_batch_size)
    tokenizer = load_tokenizer(attempt, base)
    padding = tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
    references = [question.reference for question in rows.questions]
    found: dict[str, dict[str, float]] = {}
    progress.expect_of_both(_looks(spec, rows))
    for which, model in compared_models(attempt, base, export, beside.initial_adapter):
        scores = found[which] = {}
        if spec.harness is not None and beside.tasks is not None:
            with fitting(*_harness_memory(spec.harness, batch)):
                scores |= harness_figures(
                    spec.harness,
                    beside.tasks,
                    model,
                    tokenizer,
                    batch=batch,
                    rows=spec.max_rows,
                    # The base model, which comes last, is asked the same.
                    expect=progress.expect_of_both if which == "tuned" else lambda requests: None,
                    count=progress.count,
                )
        if Metric.PERPLEXITY in spec.metrics:
            scores["perplexity"] = perplexity_of(
                model, rows.passages, batch=batch, padding=padding, count=progress.count
            )
        if spec.generates:
            answers = answers_of(
                model,
                rows.questions,
                batch=batch,
                new_tokens=spec.max_new_tokens,
                ends=_ends(attempt, model, tokenizer),
                padding=padding,
                decode=lambda tokens: str(tokenizer.decode(tokens, skip_special_tokens=True)).strip(),
                count=progress.count,
            )
            for metric in spec.metrics:
                if metric in OF_ANSWERS:
                    scores |= OF_ANSWERS[metric](answers, references)
            scores |= _judged(attempt, rows.questions, answers, which, progress)
            if spec.entailment is not None and beside.entailment is not None:
                with fitting(
                    f"evaluation.entailment.uri: {spec.entailment.uri}",
                    "name a smaller classifier, or remove entailment from evaluation.metrics",
                ):
                    scores["entailment"] = entailed_share(beside.entailment, references, answers, count=progress.count)
    return found


def _harness_memory(harness: Harness, batch: int) -> tuple[str, str]:
    """Return what is told of tasks that the GPU has no room for: field and value, and what to change."""
    remedy = "lower evaluation.harness.fewShot, or remove" if harness.few_shot else "shorten their rows, or remove"
    return (
        f"evaluation.harness.tasks: {', '.join(harness.tasks)} (fewShot {harness.few_shot}) in batches of {batch}",
        f"{remedy} tasks or evaluation.harness",
    )


def _looks(spec: Evaluation, rows: JudgedRows) -> int:
    """Return how often a row is looked at per model."""
    asked = (spec.generates, spec.judge is not None, spec.entailment is not None)
    return len(rows.questions) * sum(asked) + (len(rows.passages) if Metric.PERPLEXITY in spec.metrics else 0)


def _judged(
    attempt: AttemptFile, questions: Any, answers: list[str], which: str, progress: EvaluationProgress
) -> dict[str, float]:
    """Return the score of evaluation.judge, and how many answers got none; no score where it gave none at all."""
    judge = attempt.spec.evaluation.judge
    if judge is None:
        return {}
    from finetune_trainer.after_training.judge import JudgeClient

    with JudgeClient(judge, os.environ.get(JUDGE_KEY_VARIABLE)) as client:
        said = client.judge(questions, answers, count=progress.count)
    if said.unusable:
        print(
            f"judge: no score for {said.unusable} of {len(answers)} answers of the {which} model: {said.problem}",
            flush=True,
        )
    print(
        f"judge: {said.weighted} of {len(answers) - said.unusable} scores of the {which} model are weighted by their probabilities",
        flush=True,
    )
    scores = {} if said.score is None else {"judge": said.score}
    return {**scores, JUDGE_FAILURES: float(said.unusable)}


def _ends(attempt: AttemptFile, model: Any, tokenizer: Any) -> list[int]:
    """Return the tokens that end an answer: the tokenizer's, the model's, and that of the turns of a named template."""
    known = model.generation_config.eos_token_id
    ends = known if isinstance(known, list) else [known]
    turn = END_OF_TURN.get(model_source(attempt).chat_template or "")
    ends = [*ends, tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids(turn) if turn else None]
    return [end for end in ends if end is not None]
