"""A job gives what a script of TRL and PEFT alone gives with the same settings: every loss and trained weight, full and lora bit for bit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from finetune_operator.api.plan import AttemptFile
from finetune_trainer.arguments import adapter_settings, quantization_settings, training_arguments, weights_dtype
from finetune_trainer.objectives.recipe import CAUSAL
from finetune_trainer.objectives.supervised import supervised_arguments
from finetune_trainer.testing import tiny_plan
from finetune_trainer.testing_ranks import RankServer

OURS = frozenset({"dataset_kwargs", "save_strategy", "logging_nan_inf_filter", "fsdp", "deepspeed"})
"""What a script leaves at its default: our rows come encoded, and our checkpoints are our own."""


def settings_of(attempt: AttemptFile, folder: Path) -> dict[str, Any]:
    known = training_arguments(attempt, folder / "output") | supervised_arguments(attempt)
    arguments = {name: value for name, value in known.items() if name not in OURS}
    adapter = adapter_settings(attempt, CAUSAL.task_type)
    return {
        "model": attempt.spec.model.uri.removeprefix("file://"),
        "data": attempt.spec.data_uri.removeprefix("file://"),
        "dtype": weights_dtype(attempt),
        "lora": adapter[1] if adapter else None,
        "quantization": quantization_settings(attempt),
        "arguments": {**arguments, "assistant_only_loss": True, "save_strategy": "no"},
        "events": str(folder / "losses.jsonl"),
        "result": str(folder / "result"),
    }


@pytest.mark.parametrize("method", ["full", "lora", "qlora"])
def test_losses_and_weights_are_those_of_a_script_of_trl_and_peft_alone(
    method: str, ranks: RankServer, make_attempt: Any, tmp_path: Path
) -> None:
    training = {"precision": "bf16"} if method == "qlora" else {}
    tuning = {"method": method, **({} if method == "full" else {"lora": {"rank": 8, "dropout": 0.1}})}
    attempt = make_attempt(tiny_plan(micro_batch_size=2, total_steps=6), tuning=tuning, training=training)
    ours = ranks.run(attempt, tmp_path / "run")
    assert ours.statuses == (0,), ours.log()

    plain = tmp_path / "plain"
    plain.mkdir()
    ranks.call("bench.plain.trl_sft:train", settings=settings_of(attempt, plain))

    told = {line["step"]: line["loss"] for line in map(json.loads, (plain / "losses.jsonl").read_text().splitlines())}
    name = "model.safetensors" if method == "full" else "adapter_model.safetensors"
    (checkpoint,) = Path(attempt.checkpoint_uri.removeprefix("file://")).glob("step-*/*")
    difference = ranks.call(
        "finetune_trainer.testing_methods:largest_difference",
        one=str(checkpoint / name),
        other=str(plain / "result" / name),
    )
    if method == "qlora":
        # TRL rounds the adapters of a quantised model to bfloat16, and we keep them in float32: measured 4e-4, and a tenth of the largest weight.
        assert ours.losses == pytest.approx(told, abs=2e-3)
        assert difference < 0.3
    else:
        assert ours.losses == told
        assert difference == 0
