"""What the plan counts for encoded rows is what training writes of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from finetune_operator.api.compatibility import Objective
from finetune_operator.api.inspection import InspectionRequest
from finetune_operator.api.plan import AttemptFile
from finetune_operator.planner.encoded_rows import BYTES_PER_ROW, BYTES_PER_TOKEN, TEXT_GROWTH, encoded_bytes
from finetune_trainer.dataset import encode_dataset
from finetune_trainer.inspect.command import inspect
from finetune_trainer.objectives import recipe_of
from finetune_trainer.testing import tiny_plan

Build = Callable[..., InspectionRequest]
COUNT = 200
LONG = "3 + 4 = 7 The answer is 7. " * 12
PAIR = {"prompt": "How many apples? ", "chosen": LONG, "rejected": f"{LONG} How many?"}
ROWS: dict[str, Callable[[int], dict[str, Any]]] = {
    "sft": lambda number: {"prompt": f"{number} apples? ", "completion": LONG},
    "pretrain": lambda number: {"text": f"{number} {LONG}"},
    "dpo": lambda number: {**PAIR, "prompt": f"{number} apples? "},
    "orpo": lambda number: {**PAIR, "prompt": f"{number} apples? "},
    "reward": lambda number: {**PAIR, "prompt": f"{number} apples? "},
    "kto": lambda number: {"prompt": f"{number} apples? ", "completion": LONG, "label": number % 2 == 0},
    "classification": lambda number: {"text": f"{number} {LONG}", "label": number % 2},
    "reranker": lambda number: {"sentence1": f"{number} {LONG}", "sentence2": LONG, "score": number / COUNT},
    "embedding": lambda number: {"anchor": f"{number} {LONG}", "positive": f"{LONG} {number}"},
    "grpo": lambda number: {"prompt": f"{number} {LONG}", "answer": "7 äpfel"},
}


@pytest.mark.parametrize("objective", Objective)
def test_bytes_per_token_are_those_of_the_columns(objective: Objective) -> None:
    lists = [field.type.value_type for field in recipe_of(objective).schema if pa.types.is_list(field.type)]
    names = recipe_of(objective).schema.names
    # A token is in one column, or with its label or segment in two of equal length.
    widths = sum(each.bit_width // 8 for each in lists) if "labels" in names else max((4 for _ in lists), default=0)
    assert BYTES_PER_TOKEN[objective] == widths


@dataclass(frozen=True)
class Encoded:
    """One data set."""

    written: int
    """Bytes of its files."""
    planned: int
    rows: int


@pytest.fixture
def encoded(request_for: Build, rows: Path, tmp_path: Path) -> Callable[..., Encoded]:
    def build(objective: str, *, packed: bool = False, split: float = 0.0, **parts: Any) -> Encoded:
        rows.write_text("".join(json.dumps(ROWS[objective](number)) + "\n" for number in range(COUNT)))
        plain = request_for(**({"dataset": {"split": {"evaluation": split}}} if split else {}))
        spec = {**plain.spec.to_json_dict(), **parts, "objective": objective}
        request = plain.model_validate({**plain.to_json_dict(), "spec": spec})
        report = inspect(request, tmp_path / "report.json")
        written = 0
        for joined in {False, packed}:
            plan = tiny_plan(rows=report.dataset.rows, max_length=request.spec.training.max_length, packed=joined)
            attempt = AttemptFile(
                namespace="team", name="bot", uid="uid-1", attempt=1, spec=request.spec, inspection=report,
                plan=plan, checkpoint_uri="file:///unused",
            )  # fmt: skip
            files = encode_dataset(attempt, tmp_path / f"packed-{joined}")
            written += sum(path.stat().st_size for path in files if path is not None)
        planned = encoded_bytes(request.spec, report, max_length=request.spec.training.max_length, packed=packed)
        evaluated = report.dataset.evaluation.rows if report.dataset.evaluation else 0
        return Encoded(written, planned, report.dataset.rows + evaluated)

    return build


@pytest.mark.parametrize("objective", sorted(ROWS.keys() - {"grpo"}))
def test_files_of_encoded_rows_are_as_large_as_planned(objective: str, encoded: Callable[..., Encoded]) -> None:
    made = encoded(objective)
    assert made.rows == COUNT
    assert made.written <= made.planned <= 1.1 * made.written + BYTES_PER_ROW * made.rows


def test_rows_and_the_sequences_they_are_packed_into_are_both_counted(encoded: Callable[..., Encoded]) -> None:
    made = encoded("sft", packed=True)
    assert made.written <= made.planned <= 1.1 * made.written + 2 * BYTES_PER_ROW * made.rows


def test_rows_that_are_evaluated_are_counted(encoded: Callable[..., Encoded]) -> None:
    made = encoded("sft", split=0.25)
    assert made.rows == COUNT
    assert made.written <= made.planned <= 1.1 * made.written + BYTES_PER_ROW * made.rows


def test_rows_that_stay_text_are_counted_by_their_files(encoded: Callable[..., Encoded]) -> None:
    made = encoded("grpo", training={"grpo": {"rewards": [{"verifier": "answer-format"}]}})
    assert made.written <= made.planned <= TEXT_GROWTH * made.written + BYTES_PER_ROW * made.rows
