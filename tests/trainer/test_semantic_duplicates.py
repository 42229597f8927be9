"""Rows that mean the same are left out by a real model of sentence-transformers, in the inspection alone, and training goes by that."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import pytest

from finetune_operator.api.exit_codes import ExitCode
from finetune_operator.api.inspection import InspectionReport, InspectionRequest
from finetune_operator.api.plan import AttemptFile
from finetune_operator.api.run_events import StepEvent
from finetune_trainer.testing import tiny_plan, write_rows
from finetune_trainer.testing_pairs import ROWS, all_texts
from finetune_trainer.testing_ranks import RankServer

THRESHOLD: Final = 0.999
BATCH: Final = 8


@pytest.fixture(scope="module")
def encoder(ranks: RankServer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("encoder")
    write = "finetune_trainer.testing_encoders:write_tiny_encoder"
    ranks.call(write, folder=str(folder), texts=all_texts(), kind="distilbert")
    return folder


@pytest.fixture
def rows() -> list[dict[str, str]]:
    """Pairs of sentences, the last eight of them the first ones in capitals, which this encoder's tokenizer does not see."""
    pairs = [{"prompt": row["sentence1"], "completion": row["sentence2"]} for row in ROWS["scored-pair"](40)]
    different = list({f"{row['prompt']} {row['completion']}": row for row in pairs}.values())
    return [*different, *({name: text.upper() for name, text in row.items()} for row in different[:8])]


def request_of(model: Path, encoder: Path, rows: list[dict[str, str]], folder: Path) -> InspectionRequest:
    folder.mkdir()
    data = write_rows(folder / "rows.jsonl", rows)
    filters = {"deduplicate": "semantic", "semantic": {"uri": f"file://{encoder}", "threshold": THRESHOLD}}
    spec: dict[str, Any] = {
        "model": {"uri": f"file://{model}"},
        "dataset": {"uri": f"file://{data}", "filters": filters},
        "training": {"maxLength": 64, "globalBatchSize": BATCH, "precision": "fp32"},
        "resources": {"accelerator": "cpu"},
        "output": {"uri": f"file://{folder / 'out'}"},
    }
    request = InspectionRequest.model_validate(
        {"namespace": "team", "name": "bot", "uid": "uid-1", "spec": spec, "key": "0123456789abcdef"}
    )
    (folder / "request.json").write_text(request.model_dump_json(by_alias=True))
    return request


def test_an_epoch_has_the_rows_that_plain_sentence_transformers_would_leave_in(
    ranks: RankServer, tiny_model: Path, encoder: Path, rows: list[dict[str, str]], tmp_path: Path
) -> None:
    request = request_of(tiny_model, encoder, rows, tmp_path / "job")
    inspected = ranks.call("finetune_trainer.testing_cases:inspect_case", folder=str(tmp_path / "job"))
    assert inspected["code"] == ExitCode.OK, inspected["termination"]
    report = InspectionReport.model_validate_json((tmp_path / "job" / "report.json").read_text())
    plain = ranks.call(
        "finetune_trainer.testing_pairs:plain_duplicates",
        model=str(encoder),
        texts=[f"{row['prompt']} {row['completion']}" for row in rows],
        threshold=THRESHOLD,
    )

    assert plain["margin"] > 1e-4
    assert plain["leftOut"][-8:] == list(range(len(rows) - 8, len(rows)))
    assert report.dataset.filtered_by_reason == {
        "filters.deduplicate: it means the same as an earlier row": len(plain["leftOut"])
    }
    assert report.dataset.rows == len(rows) - len(plain["leftOut"])

    steps = -(-report.dataset.rows // BATCH)
    plan = tiny_plan(micro_batch_size=BATCH, total_steps=steps, rows=report.dataset.rows, max_length=64)
    attempt = AttemptFile(
        namespace="team", name="bot", uid="uid-1", attempt=1, spec=request.spec, inspection=report, plan=plan,
        checkpoint_uri=f"file://{tmp_path}/job/out/checkpoints/bot", metrics_port=0,
    )  # fmt: skip
    result = ranks.run(attempt, tmp_path / "run")
    assert result.statuses == (0,), result.log()
    last = [event for event in result.events if isinstance(event, StepEvent)][-1]
    assert (last.step, last.total_steps) == (steps, steps)


def test_what_is_no_model_of_vectors_is_refused(
    ranks: RankServer, tiny_model: Path, encoder: Path, rows: list[dict[str, str]], tmp_path: Path
) -> None:
    (tmp_path / "broken").mkdir()
    for file in encoder.iterdir():
        if file.name != "tokenizer.json":
            (tmp_path / "broken" / file.name).write_bytes(file.read_bytes())
    request_of(tiny_model, tmp_path / "broken", rows, tmp_path / "job")

    inspected = ranks.call("finetune_trainer.testing_cases:inspect_case", folder=str(tmp_path / "job"))

    assert inspected["code"] == ExitCode.BAD_SPEC, inspected["termination"]
    assert "filters.semantic.uri: sentence-transformers cannot load" in inspected["termination"]["message"]
