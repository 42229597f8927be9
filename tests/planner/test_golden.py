"""Plans of well-known jobs stay as they were reviewed; golden_plans.yaml says what published recipes do on the same hardware.

`make golden` runs this file as a program: it writes what the planner decides now into golden_plans.yaml, for the reviewer to read the difference.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from finetune_operator.api.compatibility import Offload
from finetune_operator.api.plan import GIB, Plan, PlanError
from finetune_operator.api.reasons import Reason
from finetune_operator.planner.inventory import CpuNodes, Inventory
from finetune_operator.planner.known_models import KNOWN_MODELS
from finetune_operator.planner.plan import make_plan, question_of
from finetune_operator.planner.testing import gpu_nodes, spec_of

FILE = Path(__file__).with_name("golden_plans.yaml")
CASES: list[dict[str, Any]] = yaml.safe_load(FILE.read_text())


def answer_of(case: dict[str, Any]) -> Plan | PlanError:
    job, nodes = case["job"], case["nodes"]
    if "product" in nodes:
        only = {"gpus_per_node": nodes["gpusPerNode"], "nodes": nodes["nodes"]}
        inventory = Inventory(gpu_nodes=(gpu_nodes(nodes["product"], **only),))
    else:
        machine = {"cpu_millicores": 1000 * nodes["cpus"], "memory_bytes": nodes["memory"] * GIB}
        inventory = Inventory(cpu_nodes=(CpuNodes(nodes=nodes["nodes"], **machine),))
    spec = spec_of(job["model"], method=job["method"], training=job["training"], resources=job["resources"])
    config = job.get("config") or KNOWN_MODELS[job["model"]]
    if case.get("launchable", True):
        return make_plan(spec, None, inventory, config=config)
    refused = make_plan(spec, None, inventory, config=config)
    assert isinstance(refused, PlanError), "the trainer can start it now: remove launchable"
    assert refused.reason == Reason.UNSUPPORTED_COMBINATION
    question = question_of(spec, None, inventory, config=config)
    return question if isinstance(question, PlanError) else question.answer()


def decision_of(case: dict[str, Any]) -> dict[str, Any]:
    """What is compared: the decision, and sizes in whole GiB so that finer corrections of the formulas are no change."""
    answer = answer_of(case)
    if isinstance(answer, PlanError):
        _, _, remedy = answer.message.partition("; ")[2].partition("; ")
        return {"refused": str(answer.reason), "remedy": remedy}
    offload = {} if answer.offload is Offload.NONE else {"offload": str(answer.offload)}
    return {
        "gpu": answer.gpu_product or "none",
        "processes": answer.processes,
        "pods": answer.pods,
        "strategy": str(answer.strategy),
        **offload,
        "microBatch": answer.micro_batch_size,
        "accumulation": answer.gradient_accumulation,
        "checkpointing": str(answer.gradient_checkpointing),
        "memoryExpected": round(answer.memory.expected_bytes / GIB),
        "memoryUpper": round(answer.memory.upper_bytes / GIB),
        "podHostMemory": round(answer.resources.memory_bytes / GIB),
    }


@pytest.mark.parametrize("case", CASES, ids=[case["case"] for case in CASES])
def test_the_plan_is_the_one_that_was_reviewed(case: dict[str, Any]) -> None:
    assert decision_of(case) == case["plan"], "if this is meant: make golden, and read the difference"


def test_there_are_at_least_twenty_cases_and_each_is_compared_with_a_published_recipe() -> None:
    cited = [case for case in CASES if case["published"]["source"].startswith("github.com/")]
    assert len(cited) >= 20
    assert all(case["published"]["fact"] and case["review"] for case in CASES)


def main() -> None:
    """Write every case's plan anew; what was written by hand stays."""
    head = "".join(line for line in FILE.read_text().splitlines(keepends=True) if line.startswith("#"))
    for case in CASES:
        case["plan"] = decision_of(case)
    FILE.write_text(head + yaml.safe_dump(CASES, sort_keys=False, width=140, allow_unicode=True))


if __name__ == "__main__":
    main()
