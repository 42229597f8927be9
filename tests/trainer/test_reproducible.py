"""The same manifest with the same seed gives the same weights on the same machine, to the last bit of the published files.

The two runs are children of two interpreters with other hash seeds and addresses: children of one would agree even where the order of a set decides.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from finetune_operator.api.manifest import Manifest
from finetune_operator.api.plan import AttemptFile
from finetune_trainer.testing import tiny_plan
from finetune_trainer.testing_ranks import RankServer

TUNING: Final[dict[str, dict[str, Any]]] = {
    "lora": {"method": "lora", "lora": {"rank": 8, "dropout": 0.1}},
    "full": {"method": "full"},
}


@pytest.fixture(scope="module")
def other_interpreter() -> Iterator[RankServer]:
    with RankServer(PYTHONHASHSEED="7") as server:
        yield server


def published_weights(ranks: RankServer, attempt: AttemptFile, folder: Path) -> dict[str, str]:
    """SHA-256 of every published file with weights, after a training and its publication."""
    result = ranks.run(attempt, folder)
    assert result.statuses == (0,), result.log()
    answer = ranks.call("finetune_trainer.testing_cases:publish_case", folder=str(folder))
    assert answer["code"] == 0, answer["termination"]
    output = Path(attempt.spec.output.uri.removeprefix("file://"))
    manifest = Manifest.model_validate_json((output / "manifest.json").read_text())
    return {entry.name: entry.sha256 for entry in manifest.files if entry.name.endswith(".safetensors")}


@pytest.mark.parametrize("method", ["lora", "full"])
def test_the_same_manifest_gives_the_same_weights(
    method: str, ranks: RankServer, other_interpreter: RankServer, make_attempt: Any, tmp_path: Path
) -> None:
    def attempt(output: str, seed: int) -> AttemptFile:
        plan = tiny_plan(micro_batch_size=2, gradient_accumulation=2, total_steps=3)
        training = {"seed": seed, "precision": "bf16"}
        made: AttemptFile = make_attempt(plan, output=output, tuning=TUNING[method], training=training)
        return made

    once = published_weights(ranks, attempt("once", 7), tmp_path / "run-once")
    again = published_weights(other_interpreter, attempt("again", 7), tmp_path / "run-again")
    assert once == again
    assert "model.safetensors" in once


def test_another_seed_gives_another_training(ranks: RankServer, make_attempt: Any, tmp_path: Path) -> None:
    losses = [
        ranks.run(
            make_attempt(tiny_plan(total_steps=1), output=name, training={"seed": seed}), tmp_path / f"run-{name}"
        ).losses
        for name, seed in (("one", 7), ("other", 8))
    ]

    assert losses[0].keys() == losses[1].keys() == {1}
    assert losses[0] != losses[1]
