"""The files that `finetune plan` takes beside the job: nodes, history, prices."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.cli.job_files import write_job

from finetune_operator.api.history import EMPTY_HISTORY, History
from finetune_operator.api.plan import Plan
from finetune_operator.cli.main import main
from finetune_operator.planner.history import FinishedRun, record
from finetune_operator.planner.testing import inspected


def kubectl_nodes(folder: Path, *, spec: dict[str, object] | None = None) -> str:
    """Write what `kubectl get nodes -o json` prints of one GPU node."""
    node = {
        "metadata": {"name": "gpu-1", "labels": {"nvidia.com/gpu.product": "NVIDIA-L4"}},
        "spec": spec or {},
        "status": {"allocatable": {"cpu": "16", "memory": "64Gi", "nvidia.com/gpu": "1"}},
    }
    path = folder / "nodes.json"
    path.write_text(json.dumps({"apiVersion": "v1", "kind": "List", "items": [node]}))
    return str(path)


def test_the_nodes_of_a_cluster_are_taken_as_kubectl_prints_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job = write_job(tmp_path, method="qlora")
    assert main(["plan", "-f", job, "--inventory", kubectl_nodes(tmp_path), "-o", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["gpuProduct"] == "NVIDIA-L4"


def test_nodes_that_a_job_may_not_use_are_named_with_the_reason(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tainted: dict[str, object] = {"taints": [{"key": "team", "value": "vision", "effect": "NoSchedule"}]}
    job = write_job(tmp_path, method="qlora")
    assert main(["plan", "-f", job, "--inventory", kubectl_nodes(tmp_path, spec=tainted)]) == 3
    assert "(gpu-1): taint team=vision:NoSchedule is not in pod.tolerations" in capsys.readouterr().err


def history_of(plan: Plan) -> History:
    assert plan.prediction is not None
    history = EMPTY_HISTORY
    for number in range(8):
        peak = round(plan.prediction.expected_bytes * 1.2)
        history = record(history, FinishedRun(str(number), f"2026-11-2{number}", plan.prediction, peak))
    return history


@pytest.mark.parametrize("as_config_map", [False, True])
def test_an_inspection_says_how_many_steps_there_are(
    as_config_map: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = inspected(rows=650).model_dump_json(by_alias=True)
    path = tmp_path / "inspection.json"
    path.write_text(json.dumps({"kind": "ConfigMap", "data": {"inspection.json": text}}) if as_config_map else text)
    assert main(["plan", "-f", write_job(tmp_path), "--inspection", str(path), "-o", "json"]) == 0
    plan = Plan.model_validate_json(capsys.readouterr().out)
    assert (plan.rows, plan.steps_per_epoch) == (650, 11)


@pytest.mark.parametrize("as_config_map", [False, True])
def test_a_history_corrects_the_plan(as_config_map: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    job = write_job(tmp_path, method="qlora", resources="{gpus: 1, microBatchSize: 1, gradientCheckpointing: full}")
    arguments = ["plan", "-f", job, "--inventory", kubectl_nodes(tmp_path), "-o", "json"]
    assert main(arguments) == 0
    before = Plan.model_validate_json(capsys.readouterr().out)
    text = history_of(before).model_dump_json(by_alias=True, exclude_none=True)
    path = tmp_path / "history.json"
    path.write_text(json.dumps({"kind": "ConfigMap", "data": {"history.json": text}}) if as_config_map else text)
    assert main([*arguments, "--history", str(path)]) == 0
    after = Plan.model_validate_json(capsys.readouterr().out)
    assert after.memory.expected_bytes > 1.1 * before.memory.expected_bytes
    assert any("learned from 8 finished jobs" in reason for reason in after.reasons)


@pytest.mark.parametrize(
    ("option", "content", "words"),
    [
        ("--history", '{"records": 3}', "is no History: records: "),
        ("--history", '{"data": {"history.json": "{"}}', "data.history.json is no JSON"),
        (
            "--inventory",
            '{"items": [{"metadata": {"name": "n1"}, "status": {"allocatable": {"cpu": "many"}}}]}',
            "its items are no Nodes: node n1: status",
        ),
        ("--inventory", '{"items": [3]}', "its items are no Nodes: one has no metadata"),
        (
            "--inventory",
            '{"gpuNodes": [{"product": "NVIDIA-L4", "memoryBytes": -5, "gpusPerNode": 1, "nodes": 1, "cpuMillicores": 1, "hostMemoryBytes": 1}]}',
            "gpuNodes.0.memoryBytes: Input should be greater than 0",
        ),
        ("--history", '{"items": []}', "is no History: it has no records"),
    ],
)
def test_a_file_that_is_something_else_ends_with_2(
    option: str, content: str, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "file.json"
    path.write_text(content)
    assert main(["plan", "-f", write_job(tmp_path), option, str(path)]) == 2
    assert words in capsys.readouterr().err


def test_prices_choose_the_gpu_and_are_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prices = tmp_path / "prices.yaml"
    prices.write_text("currency: EUR\nperGpuHour: {NVIDIA-L4: 0.01, NVIDIA-H100-80GB-HBM3: 99}\n")
    assert main(["plan", "-f", write_job(tmp_path), "--prices", str(prices)]) == 0
    printed = capsys.readouterr().out
    assert "NVIDIA-L4" in printed.partition("Pods")[0]
    assert "tokens/s" in printed
    prices.write_text("perGpuHour: {NVIDIA-L4: -1}\n")
    assert main(["plan", "-f", write_job(tmp_path), "--prices", str(prices)]) == 2
    assert "perGpuHour" in capsys.readouterr().err
