"""`python -m finetune_trainer inspect --job FILE [--trace] [--output FILE]`: from the request to the report, and the exit code that tells its end.

Everything is checked in the order of its price: the request, the output folder, the model's small files, the headers of its weights (with
`--trace` also what the model needs on fake tensors), and last every row of the data set.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import NoReturn

from pydantic import ValidationError

from finetune_operator.api.constants import REQUEST_PATH, TERMINATION_LOG, TERMINATION_LOG_VARIABLE
from finetune_operator.api.exit_codes import ExitCode
from finetune_operator.api.inspection import (
    DatasetFacts,
    InspectionReport,
    InspectionRequest,
    ModelFacts,
)
from finetune_operator.api.progress import TerminationMessage
from finetune_operator.api.reasons import Reason
from finetune_operator.api.spec import ModelSource
from finetune_trainer.entailment_model import inspect_entailment_model
from finetune_trainer.failures import TrainerFailure, calls_of, failure_of
from finetune_trainer.harness_tasks import check_tasks
from finetune_trainer.inspect.data_sets import dataset_facts, survey_datasets, together
from finetune_trainer.inspect.delivery import post_report, to_json
from finetune_trainer.inspect.evaluation_rows import evaluation_facts
from finetune_trainer.inspect.formats import check_formats
from finetune_trainer.inspect.full_report import write_full_report
from finetune_trainer.inspect.output_target import check_output
from finetune_trainer.inspect.row_models import JobRowModels
from finetune_trainer.inspect.teacher import teacher_facts
from finetune_trainer.inspect.verdict import check_data
from finetune_trainer.lineage import starting_point
from finetune_trainer.model_files import ModelFolder, describe_model, open_model
from finetune_trainer.resume_source import resume_point
from finetune_trainer.rewards.config_maps import inspect_functions, mounted_at
from finetune_trainer.rewards.model_files import inspect_reward_models
from finetune_trainer.sentence_pooling import check_pooling
from finetune_trainer.tokenizer_files import read_tokenizer

logger = logging.getLogger(__name__)


def run(arguments: list[str]) -> int:
    """Inspect, report, write the termination message, and return the exit code."""
    parser = argparse.ArgumentParser(prog="finetune_trainer inspect", description="Read model and data, without a GPU.")
    parser.add_argument("--job", type=Path, default=Path(REQUEST_PATH), help="the InspectionRequest as JSON")
    parser.add_argument(
        "--trace",
        action="store_true",
        help="also measure the model on fake tensors, for the estimator has no table for it; needs the trainer's packages",
    )
    parser.add_argument("--output", type=Path, help="also write the report to this file")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)  # it logs every request's URL
    # As process 1 of a container Python ignores SIGTERM unless it is handled, and the pod uses up its grace period.
    previous = signal.signal(signal.SIGTERM, _stop)
    try:
        report = inspect(_read_request(options.job), options.output, trace=options.trace)
    except Exception as error:
        failure = failure_of(error)
        if failure.exit_code is ExitCode.BUG:
            logger.error("the inspection failed\n%s", calls_of(error))
        _say(TerminationMessage(reason=failure.reason, exit_code=failure.exit_code, message=failure.message))
        return int(failure.exit_code)
    finally:
        signal.signal(signal.SIGTERM, previous)
    _say(
        TerminationMessage(
            reason=Reason.INSPECTED,
            exit_code=ExitCode.OK,
            message=f"{report.dataset.rows} rows, {report.dataset.dropped} dropped, {report.model.parameters} parameters",
        )
    )
    return int(ExitCode.OK)


def inspect(request: InspectionRequest, output: Path | None = None, *, trace: bool = False) -> InspectionReport:
    """Return the report, after it has been delivered; anything that stops the job is raised."""
    started = time.monotonic()
    spec = request.spec
    target = check_output(request)
    logger.info("output %s is free and writable", spec.output.uri)
    source, lineage = starting_point(spec)
    folder = open_model(source)
    tokenizer = read_tokenizer(folder.storage, source.chat_template)
    check_formats(spec, folder)
    check_tasks(spec.evaluation)
    other = spec.evaluation.entailment
    entailment_bytes = inspect_entailment_model(other) if other is not None else 0
    functions = inspect_functions(spec.training.online.rewards if spec.training.online else (), mounted_at())
    judges = inspect_reward_models(spec.training.online.reward_models if spec.training.online else ())
    model = describe_model(folder, source, tokenizer, lineage)
    logger.info("model %s: %s, %d parameters", source.uri, model.architecture, model.parameters)
    check_pooling(spec, model)
    teacher = teacher_facts(spec, tokenizer)
    if trace:
        model = _traced(model, folder, source)
    resume = resume_point(spec, model, functions)
    with JobRowModels(target) as row_models:
        found = survey_datasets(spec, tokenizer, row_models, judges)
        survey = together([each.survey for each in found])
        report_uri = write_full_report(target, request, found, survey)
        refusal = check_data(found, survey, spec.objective)
        if refusal is not None:
            raise TrainerFailure(refusal.exit_code, f"{refusal}. All of them: {report_uri}")
        facts = dataset_facts(spec, found, survey, evaluation_facts(spec, found, survey, tokenizer, row_models))
        decisions = row_models.written(request.key)
    report = _report(request, model, facts, report_uri, started).model_copy(
        update={
            "resume": resume,
            "decisions": decisions,
            "teacher": teacher,
            "entailment_weight_bytes": entailment_bytes,
            "reward_models": tuple(judge.facts for judge in judges),
            "reward_files": functions,
        }
    )
    body = to_json(report)
    if request.progress is not None:
        post_report(request, request.progress, body)
    if output is not None:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_bytes(body + b"\n")
    elif request.progress is None:
        print(body.decode())
    return report


def _traced(model: ModelFacts, folder: ModelFolder, source: ModelSource) -> ModelFacts:
    try:
        # The image that inspects without a trace has no torch.
        from finetune_trainer.inspect.model_trace import with_trace
    except ImportError as error:
        raise TrainerFailure(
            ExitCode.BUG, f"--trace needs the trainer's packages, and {error.name} is missing: use the trainer's image"
        ) from error
    return with_trace(model, folder.config, source)


def _report(
    request: InspectionRequest, model: ModelFacts, dataset: DatasetFacts, report_uri: str, started: float
) -> InspectionReport:
    return InspectionReport(
        key=request.key,
        job=f"{request.namespace}/{request.name}",
        finished_at=datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
        seconds=round(time.monotonic() - started, 3),
        model=model,
        dataset=dataset,
        report_uri=report_uri,
    )


def _read_request(path: Path) -> InspectionRequest:
    try:
        return InspectionRequest.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        raise TrainerFailure(ExitCode.BAD_SPEC, f"there is no request at {path}; name the file with --job") from None
    except ValidationError as error:
        fields = "; ".join(f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors()[:5])
        raise TrainerFailure(ExitCode.BAD_SPEC, f"the request at {path} is not usable: {fields}") from None


def _say(message: TerminationMessage) -> None:
    """Write the termination message for the kubelet, and the same words to the log."""
    level = logging.INFO if message.exit_code == ExitCode.OK else logging.ERROR
    logger.log(level, "%s: %s", message.reason, message.message)
    path = Path(os.environ.get(TERMINATION_LOG_VARIABLE, TERMINATION_LOG))
    try:
        path.write_text(message.to_line())
    except OSError as error:  # outside a pod there is no such file, and nobody reads it
        logger.debug("no termination message at %s: %s", path, error.strerror)


def _stop(signum: int, frame: object) -> NoReturn:
    raise TrainerFailure(ExitCode.TERMINATED, "the inspection was stopped from outside")
