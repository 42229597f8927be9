"""Publication of real, tiny runs: what lies at output.uri afterwards, and whose it may be."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from finetune_operator.api.compatibility import Strategy
from finetune_operator.api.exit_codes import ExitCode
from finetune_operator.api.manifest import Manifest
from finetune_operator.api.run_events import PublishEvent
from finetune_trainer.named_templates import template_source
from finetune_trainer.testing import tiny_plan
from finetune_trainer.testing_ranks import CaseResult, RankServer

MODEL_FILES = {"README.md", "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}
ADAPTER_FILES = {"adapter/adapter_config.json", "adapter/adapter_model.safetensors"}


def publish(ranks: RankServer, result: CaseResult) -> dict[str, Any]:
    answer: dict[str, Any] = ranks.call("finetune_trainer.testing_cases:publish_case", folder=str(result.folder))
    return answer


@pytest.mark.parametrize(
    ("method", "strategy", "precision"),
    [
        ("full", Strategy.FSDP, "bf16"),
        ("full", Strategy.ZERO2, "bf16"),
        ("full", Strategy.ZERO3, "bf16"),
        ("qlora", Strategy.ZERO3, "bf16"),
        ("lora", Strategy.FSDP, "bf16"),
        ("lora", Strategy.DDP, "fp32"),
        ("qlora", Strategy.FSDP, "bf16"),
        ("qlora", Strategy.SINGLE, "bf16"),
    ],
)
def test_a_finished_run_is_published_whole_and_tried(
    method: str, strategy: Strategy, precision: str, ranks: RankServer, make_attempt: Any, tmp_path: Path
) -> None:
    processes = 1 if strategy is Strategy.SINGLE else 2
    plan = tiny_plan(strategy=strategy, processes=processes, micro_batch_size=2, total_steps=3)
    attempt = make_attempt(
        plan, tuning={"method": method}, training={"precision": precision}, model={"chatTemplate": "chatml"}
    )
    result = ranks.run(attempt, tmp_path / "run")
    assert result.statuses == (0,) * processes, result.log()

    answer = publish(ranks, result)

    assert answer["code"] == 0, answer
    assert answer["termination"]["resultUri"] == f"file://{tmp_path}/out"
    manifest = Manifest.model_validate_json((tmp_path / "out" / "manifest.json").read_text())
    names = {entry.name for entry in manifest.files}
    assert names >= MODEL_FILES
    assert (tmp_path / "out" / "chat_template.jinja").read_text() == template_source("chatml")
    assert (names & ADAPTER_FILES) == (set() if method == "full" else ADAPTER_FILES)
    for entry in manifest.files:
        content = (tmp_path / "out" / entry.name).read_bytes()
        assert (len(content), hashlib.sha256(content).hexdigest()) == (entry.size, entry.sha256)
    assert [event.uri for event in result.events if isinstance(event, PublishEvent)] == [f"file://{tmp_path}/out"]
    assert "all logits finite" in (tmp_path / "out" / "README.md").read_text()


def test_publishing_again_changes_nothing_with_a_gguf_file_too(
    ranks: RankServer, make_attempt: Any, tmp_path: Path
) -> None:
    result = ranks.run(make_attempt(tiny_plan(total_steps=1)), tmp_path / "run")
    plan_file = tmp_path / "run" / "plan.json"
    plan = json.loads(plan_file.read_text())
    plan["spec"]["output"]["gguf"] = ["q8_0"]
    plan_file.write_text(json.dumps(plan))
    answer = publish(ranks, result)
    assert answer["code"] == 0, answer
    assert (tmp_path / "out" / "tiny-Q8_0.gguf").read_bytes()[:4] == b"GGUF"
    assert "llama-server --model <this folder>/tiny-Q8_0.gguf" in (tmp_path / "out" / "README.md").read_text()
    before = (tmp_path / "out" / "manifest.json").read_text()

    assert publish(ranks, result)["code"] == 0
    assert (tmp_path / "out" / "manifest.json").read_text() == before


@pytest.mark.parametrize(("if_exists", "code"), [("fail", ExitCode.BAD_SPEC), ("overwrite", ExitCode.OK)])
def test_another_jobs_model_is_overwritten_only_when_the_spec_says_so(
    if_exists: str, code: ExitCode, ranks: RankServer, make_attempt: Any, tmp_path: Path
) -> None:
    result = ranks.run(make_attempt(tiny_plan(total_steps=1), output="out"), tmp_path / "run")
    publish(ranks, result)
    path = tmp_path / "out" / "manifest.json"
    other = Manifest.model_validate_json(path.read_text())
    gone = other.files[0].model_copy(update={"name": "old-file.bin"})
    (tmp_path / "out" / "old-file.bin").write_text("old")
    other = other.model_copy(update={"uid": "another", "files": (*other.files, gone)})
    path.write_text(other.model_dump_json(by_alias=True))
    plan_file = tmp_path / "run" / "plan.json"
    plan = json.loads(plan_file.read_text())
    plan["spec"]["output"]["ifExists"] = if_exists
    plan_file.write_text(json.dumps(plan))

    answer = publish(ranks, result)

    assert answer["code"] == code
    assert answer["termination"]["reason"] == ("OutputExists" if code else "Published")
    assert (tmp_path / "out" / "old-file.bin").exists() == (if_exists == "fail")


def test_an_unfinished_training_is_not_published(ranks: RankServer, make_attempt: Any, tmp_path: Path) -> None:
    attempt = make_attempt(tiny_plan(total_steps=6))
    result = ranks.run(attempt, tmp_path / "run", probes=("TERM:0:2",))
    assert result.statuses == (ExitCode.TERMINATED,)

    answer = publish(ranks, result)

    assert answer["code"] == ExitCode.NOT_FOUND
    assert "of 6" in answer["termination"]["message"]
    assert not (tmp_path / "out" / "manifest.json").exists()
