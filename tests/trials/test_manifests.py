"""The manifests of the trials go as far as a plan on generated rows: their layouts, columns and settings fit what `gsm8k.py` writes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from gsm8k import JUDGED_FILE, SOLUTIONS_FILE, prepare
from tests.cli.job_files import TINY
from tests.inspect.conftest import write_model
from trials import TRIALS, Trial

from finetune_operator.api.inspection import InspectionRequest
from finetune_operator.api.plan import GIB, Plan
from finetune_operator.api.spec import FineTuneJobSpec
from finetune_operator.planner.inventory import CpuNodes, Inventory
from finetune_operator.planner.plan import make_plan
from finetune_trainer.inspect.command import inspect
from finetune_trainer.testing import write_rows

ROOT = Path(__file__).parents[2]
NODE = Inventory(cpu_nodes=(CpuNodes(nodes=1, cpu_millicores=2000, memory_bytes=16 * GIB),))


def solved(number: int) -> dict[str, str]:
    """A question and its solution; the last questions are too long to be answered by a trial."""
    told = "It is a fine day. " * (10 if number >= 100 else 0)
    return {
        "question": f"{told}Ada has {number} apples and gets 3 more. How many apples does she have?",
        "answer": f"She has {number} + 3 = <<{number}+3={number + 3}>>{number + 3} apples.\n#### {number + 3}",
    }


def judged(number: int) -> dict[str, Any]:
    """Two right and two wrong solutions; of the last questions they are too long for a pair."""
    said = "She counts them one by one. " * (20 if number >= 100 else 1)
    right = {f"right-{i}": {"is_correct": True, "solution": f"{said}{i}: A: {number + 3}"} for i in range(2)}
    wrong = {f"wrong-{i}": {"is_correct": False, "solution": f"{said}{i}: A: {number - 3}"} for i in range(2)}
    return {"question": solved(number)["question"], "ground_truth": str(number + 3), **right, **wrong}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the trials keep everything, with generated rows and a model of the real one's kind, without weights."""
    folder = tmp_path_factory.mktemp("trials")
    write_rows(folder / "source" / SOLUTIONS_FILE, [solved(number) for number in range(120)])
    write_rows(folder / "source" / JUDGED_FILE, [judged(number) for number in range(120)])
    prepare(folder / "source", folder / "data")
    config = write_model(folder / "model") / "config.json"
    config.write_text(json.dumps({**TINY, "architectures": ["LlamaForCausalLM"]}))
    return folder


@pytest.mark.parametrize("trial", TRIALS, ids=lambda trial: trial.name)
def test_a_trial_is_inspected_and_planned_and_no_row_of_it_is_dropped_or_cut(trial: Trial, folder: Path) -> None:
    text = (ROOT / "trials" / f"{trial.name}.yaml").read_text()
    here = text.replace("ftj://trial-sft", "file://.trials/model").replace("file://.trials", f"file://{folder}")
    spec = FineTuneJobSpec.model_validate(yaml.safe_load(here)["spec"])
    request = InspectionRequest(namespace="default", name=trial.name, uid="uid", spec=spec, key="0123456789abcdef")

    report = inspect(request, folder / f"{trial.name}.json")
    plan = make_plan(spec, report, NODE)

    expected = {"sft": (108, 12), "dpo": (360, 40), "reward": (360, 40), "grpo": (90, 0)}[trial.name]
    held_out = report.dataset.evaluation
    assert (report.dataset.rows, held_out.rows if held_out else 0) == expected
    assert (report.dataset.dropped, report.dataset.truncated) == (0, 0)
    assert isinstance(plan, Plan), plan
    assert plan.processes_per_pod == 1
