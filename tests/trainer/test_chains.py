"""A job starts from another one's result: the examples of a chain, one after the other, each inspected and planned as everywhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.trainer.chained_jobs import Finished, attempt_of, example, finish

from finetune_operator.api.chains import named_job, starting_at
from finetune_operator.api.spec import FineTuneJobSpec
from finetune_trainer.failures import TrainerFailure
from finetune_trainer.testing import arithmetic_rows, preference_rows, write_rows
from finetune_trainer.testing_ranks import RankServer


@pytest.fixture(scope="module")
def supervised(ranks: RankServer, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """examples/sft-lora.yaml in one process, with a chat template that its model had not."""
    folder = tmp_path_factory.mktemp("chain")
    rows = write_rows(folder / "rows.jsonl", arithmetic_rows(48))
    model = {"uri": f"file://{tiny_model}", "chatTemplate": "chatml"}
    job, spec = example("sft-lora.yaml", rows, model=model, resources={"accelerator": "cpu", "strategy": "single"})
    spec["training"] = {**spec["training"], "maxSteps": 6, "maxLength": 128}
    return finish(ranks, folder, job, spec)


@pytest.fixture(scope="module")
def preferred(ranks: RankServer, supervised: Finished, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """examples/chain-dpo.yaml from that result, which it names."""
    folder = tmp_path_factory.mktemp("preferred")
    job, spec = example("chain-dpo.yaml", write_rows(folder / "pairs.jsonl", preference_rows(32)))
    return finish(ranks, folder, job, from_result(spec, supervised))


def from_result(spec: dict[str, Any], first: Finished) -> dict[str, Any]:
    """The spec of an example with the place of the result that it names."""
    named = FineTuneJobSpec.model_validate({**spec, "output": {"uri": "file:///unused"}})
    assert named_job(named.model.uri) == first.attempt.name
    placed = starting_at(named, {first.attempt.name: f"file://{first.result}"})
    return {**spec, "model": placed.model.to_json_dict()}


def test_preferences_are_learned_on_what_the_first_job_has_learned(supervised: Finished, preferred: Finished) -> None:
    lineage = preferred.attempt.inspection.model.lineage
    assert lineage is not None
    assert (lineage.job, lineage.uid, lineage.step) == ("team/word-problems", supervised.attempt.uid, 6)
    assert (lineage.objective, lineage.method) == ("sft", "lora")
    assert lineage.base == supervised.attempt.spec.model.uri
    # The reference is the model that the chain has come to: answers have its probabilities at first, so that no margin is there.
    assert preferred.case.losses[1] == pytest.approx(0.6931, abs=1e-3)
    template = (supervised.result / "chat_template.jinja").read_text()
    assert (preferred.result / "chat_template.jinja").read_text() == template
    assert "started from | the result of job team/word-problems (sft, lora) after step 6" in preferred.card
    assert f"itself from `{lineage.base}`" in preferred.card


def test_rewards_are_sought_from_what_was_preferred(ranks: RankServer, preferred: Finished, tmp_path: Path) -> None:
    sums = [{"prompt": f"{a}+{b}=", "answer": str(a + b)} for a in range(4) for b in range(4)]
    job, spec = example("chain-grpo.yaml", write_rows(tmp_path / "sums.jsonl", sums))
    spec["training"] = {**spec["training"], "maxSteps": 1, "globalBatchSize": 8}
    del spec["training"]["epochs"]

    rewarded = finish(ranks, tmp_path, job, from_result(spec, preferred))

    lineage = rewarded.attempt.inspection.model.lineage
    assert lineage is not None
    assert (lineage.job, lineage.objective) == ("team/preferred-word-problems", "dpo")
    assert lineage.base == preferred.attempt.spec.model.uri
    assert (rewarded.result / "chat_template.jinja").read_text() == (
        preferred.result / "chat_template.jinja"
    ).read_text()
    assert "started from | the result of job team/preferred-word-problems (dpo, lora)" in rewarded.card


def test_an_adapter_alone_that_cannot_be_gone_on_with_is_refused_with_the_remedy(
    ranks: RankServer, tiny_model: Path, tmp_path: Path
) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", arithmetic_rows(16))
    spec = {
        "model": {"uri": f"file://{tiny_model}"},
        "dataset": {"uri": f"file://{rows}"},
        "training": {"maxSteps": 1, "maxLength": 128, "precision": "fp32"},
        "resources": {"accelerator": "cpu", "strategy": "single"},
    }
    first = finish(ranks, tmp_path, "adapter", {**spec, "tuning": {"method": "lora"}, "output": {"merge": False}})
    second = {
        **spec,
        "model": {"uri": f"file://{first.result}"},
        "tuning": {"method": "full"},
        "output": {"uri": f"file://{tmp_path}/second"},
    }

    with pytest.raises(
        TrainerFailure, match=r"job team/adapter, which published an adapter alone: .* output\.merge: true"
    ):
        attempt_of("second", FineTuneJobSpec.model_validate(second))


def test_an_adapter_of_the_same_method_is_gone_on_with(
    ranks: RankServer, supervised: Finished, tiny_data: Path, tmp_path: Path
) -> None:
    spec = supervised.attempt.spec.to_json_dict()
    spec["model"] = {"uri": f"file://{supervised.result}"}
    spec["dataset"] = {"uri": f"file://{tiny_data}"}
    spec["resources"] = {"accelerator": "cpu", "processes": 2, "strategy": "fsdp"}
    spec["training"] = {**spec["training"], "learningRate": 1e-12, "maxSteps": 1}

    after = finish(ranks, tmp_path, "longer", spec)

    assert after.attempt.inspection.model.uri == supervised.attempt.spec.model.uri
    assert after.case.losses[1] < supervised.case.losses[1]
    for name in ("adapter/adapter_model.safetensors", "model.safetensors"):
        difference = ranks.call(
            "finetune_trainer.testing_methods:largest_difference",
            one=str(supervised.result / name),
            other=str(after.result / name),
        )
        assert difference < 1e-6, name
    assert (after.result / "chat_template.jinja").read_text() == (supervised.result / "chat_template.jinja").read_text()
    assert "started from | the adapter of job team/word-problems" in after.card
