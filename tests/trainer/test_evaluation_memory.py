"""The evaluation after the training runs out of GPU memory: that is told as what the user can change, and no training is planned anew for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from finetune_operator.api.exit_codes import ExitCode, meaning_of
from finetune_operator.api.reasons import Reason
from finetune_trainer.after_training.gpu_memory import fitting
from finetune_trainer.failures import TrainerFailure, failure_of
from finetune_trainer.rank_files import RunDirectory
from finetune_trainer.testing import tiny_plan, write_rows
from finetune_trainer.testing_ranks import RankServer

REQUEST = "CUDA out of memory. Tried to allocate 2.00 GiB"


class OutOfMemoryError(RuntimeError):
    """Named as torch's is: it is recognised without importing torch."""


@pytest.mark.parametrize(
    "error",
    [
        OutOfMemoryError(f"{REQUEST}."),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate`"),
    ],
)
def test_a_part_that_does_not_fit_names_field_and_remedy_and_is_not_tried_again(error: Exception) -> None:
    assert failure_of(error).exit_code is ExitCode.GPU_OUT_OF_MEMORY
    with pytest.raises(TrainerFailure) as told, fitting("model.uri: hf://org/name", "remove evaluation.metrics"):
        raise error
    failure = failure_of(told.value)
    assert (failure.exit_code, failure.reason) == (ExitCode.BAD_SPEC, Reason.INVALID_SPEC)
    assert not meaning_of(failure.exit_code).retry
    assert failure.message.startswith(
        f"model.uri: hf://org/name does not fit the GPU ({str(error).rstrip('.')}); remove evaluation.metrics"
    )
    assert "bucket" in failure.message


@pytest.mark.parametrize("error", [MemoryError(), KeyError("row"), TrainerFailure(ExitCode.BAD_DATA, "line 3")])
def test_every_other_error_of_a_part_passes_as_it_is(error: Exception) -> None:
    with pytest.raises(type(error)) as told, fitting("evaluation", "remove it"):
        raise error
    assert told.value is error


def test_a_batch_is_halved_until_it_fits_and_one_row_that_does_not_is_the_specs_fault(ranks: RankServer) -> None:
    case = "finetune_trainer.testing_cases:answers_case"
    found = ranks.call(case, lengths=[2, 5, 3, 4], room=10)
    # The longest rows first: 4 rows of 5 tokens, then 5 and 4, then 3 and 2.
    assert found == {"answers": ["[2]", "[5]", "[3]", "[4]"], "batches": [2, 2]}

    refused = ranks.call(case, lengths=[2, 5], room=4)

    assert refused["code"] == ExitCode.BAD_SPEC
    assert refused["said"].startswith(
        f"evaluation.maxNewTokens: 256 tokens of an answer after a prompt of 5 does not fit the GPU ({REQUEST}); lower evaluation.maxNewTokens"
    )


TASK = """
task: sums
dataset_path: json
dataset_kwargs: {data_files: {test: rows.jsonl}}
test_split: test
output_type: generate_until
doc_to_text: !function large.asked
doc_to_target: answer
metric_list: [{metric: exact_match}]
"""
LARGE = f"""
import torch


def asked(row):
    raise torch.OutOfMemoryError("{REQUEST}")
"""


def test_a_harness_that_does_not_fit_ends_the_evaluation_as_the_specs_fault(
    ranks: RankServer, make_attempt: Any, tmp_path: Path
) -> None:
    tasks = tmp_path / "tasks"
    write_rows(tasks / "rows.jsonl", [{"answer": "2"}])
    (tasks / "sums.yaml").write_text(TASK)
    (tasks / "large.py").write_text(LARGE)
    harness = {"uri": f"file://{tasks}", "tasks": ["sums"], "fewShot": 0}
    result = ranks.run(make_attempt(tiny_plan(total_steps=1), evaluation={"harness": harness}), tmp_path / "run")

    code = ranks.call("finetune_trainer.testing_cases:evaluate_case", folder=str(result.folder))

    (error,) = RunDirectory(result.folder / "run").errors()
    assert (code, error.exit_code, error.reason) == (ExitCode.BAD_SPEC, ExitCode.BAD_SPEC, Reason.INVALID_SPEC)
    assert error.message.startswith(
        "evaluation after the training: evaluation.harness.tasks: sums (fewShot 0) in batches of "
    )
    assert f"({REQUEST}); shorten their rows, or remove tasks" in error.message
