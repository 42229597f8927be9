"""Every example of an objective goes its whole way on a tiny model: inspected, planned, trained, published, loaded again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from finetune_operator.api.inspection import InspectionRequest, inspection_key
from finetune_operator.api.plan import GIB, AttemptFile, Plan, checkpoint_uri
from finetune_operator.api.run_events import EvaluationEvent
from finetune_operator.api.spec import FineTuneJobSpec
from finetune_operator.planner.inventory import CpuNodes, Inventory
from finetune_operator.planner.plan import make_plan
from finetune_trainer.inspect.command import inspect
from finetune_trainer.testing import answer_rows, arithmetic_rows, judged_rows, preference_rows, write_rows
from finetune_trainer.testing_encoders import text_rows, word_rows
from finetune_trainer.testing_online import SUMS
from finetune_trainer.testing_pairs import judged_pair_rows, pair_rows
from finetune_trainer.testing_ranks import RankServer

EXAMPLES: Final = Path(__file__).parents[2] / "examples"
ROWS: Final = {
    "sft-evaluated.yaml": answer_rows,
    "dpo-lora.yaml": preference_rows,
    "orpo-lora.yaml": preference_rows,
    "kto-lora.yaml": judged_rows,
    "reward-lora.yaml": preference_rows,
    "grpo-lora.yaml": lambda count: list(SUMS[:count]),
    "classification.yaml": text_rows,
    "token-classification.yaml": word_rows,
    "embedding.yaml": lambda count: pair_rows(2 * count),
    "reranker.yaml": judged_pair_rows,
    "distill-lora.yaml": arithmetic_rows,
    "several-data-sets.yaml": arithmetic_rows,
}
ENDS: Final = {
    "reward-lora.yaml": "LlamaForSequenceClassification",
    "classification.yaml": "LlamaForSequenceClassification",
    "token-classification.yaml": "LlamaForTokenClassification",
    "embedding.yaml": "LlamaModel",
    "reranker.yaml": "LlamaForSequenceClassification",
}
ROWS_OF_A_SET: Final = {"s3://data/instructions.jsonl": answer_rows}
"""What stands in a data set of an example that learns from several, where it is not what the others have."""
REWARDED: Final = {"grpo-lora.yaml"}
"""Their loss is near 0 however good the answers are (tests/trainer/test_online.py looks at those)."""
FEW_STEPS: Final = {"embedding.yaml", "reranker.yaml"}
"""Two or three steps move their loss by a hundredth (test_embedding.py and test_reranker.py look at what is learned)."""
NODE: Final = Inventory(cpu_nodes=(CpuNodes(nodes=1, cpu_millicores=4000, memory_bytes=24 * GIB),))


def attempt_of(name: str, model: Path, folder: Path, **training: Any) -> AttemptFile:
    """The example with other places, inspected and planned as `finetune run` does it."""
    manifest = yaml.safe_load((EXAMPLES / name).read_text())
    spec = {**manifest["spec"], "model": {"uri": f"file://{model}"}, "output": {"uri": f"file://{folder / 'out'}"}}
    for number, dataset in enumerate(spec.get("datasets") or [spec["dataset"]]):
        made = ROWS_OF_A_SET.get(dataset["uri"], ROWS[name])(48, seed=number) if number else ROWS[name](48)
        dataset["uri"] = f"file://{write_rows(folder / f'rows-{number}.jsonl', made)}"
    spec["training"] = {**spec["training"], **training}
    if (distill := spec["training"].get("distill")) is not None:
        distill["teacher"]["uri"] = f"file://{model}"
    spec.pop("credentials")
    if name == "embedding.yaml":
        # What two steps teach a tiny model is no matter of this test, but that the gate is asked.
        spec["evaluation"]["require"] = dict.fromkeys(spec["evaluation"]["require"], ">=0")
    parsed = FineTuneJobSpec.model_validate(spec)
    uid = "0f1e2d3c-0000-4000-8000-000000000000"
    request = InspectionRequest(
        namespace="default", name="example", uid=uid, spec=parsed, key=inspection_key("default", parsed)
    )
    report = inspect(request)
    plan = make_plan(parsed, report, NODE)
    assert isinstance(plan, Plan), plan
    return AttemptFile(
        namespace="default",
        name="example",
        uid=uid,
        attempt=1,
        spec=parsed,
        inspection=report,
        plan=plan,
        checkpoint_uri=checkpoint_uri(parsed, "example", uid),
        metrics_port=0,
    )


@pytest.mark.parametrize("name", sorted(ROWS))
def test_an_example_goes_its_whole_way(name: str, ranks: RankServer, tiny_model: Path, tmp_path: Path) -> None:
    attempt = attempt_of(name, tiny_model, tmp_path, learningRate=5e-3)
    result = ranks.run(attempt, tmp_path / "run")
    if attempt.spec.is_judged:
        assert ranks.call("finetune_trainer.testing_cases:evaluate_case", folder=str(tmp_path / "run")) == 0
    published = ranks.call("finetune_trainer.testing_cases:publish_case", folder=str(tmp_path / "run"))

    assert result.statuses == (0,), result.log()
    assert published["code"] == 0, published["termination"]
    if name not in REWARDED | FEW_STEPS:
        assert result.losses[attempt.plan.total_steps] < result.losses[1]
    architecture = json.loads((tmp_path / "out" / "config.json").read_text())["architectures"][0]
    assert architecture == ENDS.get(name, "LlamaForCausalLM")
    if name == "sft-evaluated.yaml":
        measured = [event.step for event in result.events if isinstance(event, EvaluationEvent)]
        assert measured == [5, 10, 15, 20]
        perplexity = published["termination"]["evaluation"]["figures"][0]
        assert perplexity["tuned"] < 300 < perplexity["base"], (
            "the gate lets the tuned model through, not the base model"
        )
    if name == "embedding.yaml":
        assert [figure["name"] for figure in published["termination"]["evaluation"]["figures"]] == [
            "loss",
            "retrieval_accuracy",
        ]
    if name == "reward-lora.yaml":
        held_out = write_rows(tmp_path / "held-out.jsonl", preference_rows(32, seed=1))
        share = ranks.call(
            "finetune_trainer.testing_plain:preferred_share", model=str(tmp_path / "out"), data=str(held_out)
        )
        assert share > 0.9
