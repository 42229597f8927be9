"""`finetune plan` as a user meets it: exit codes, words and speed."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console, RenderableType

from finetune_operator.api.history import EMPTY_HISTORY, History
from finetune_operator.api.inspection import DatasetFacts, InspectionReport, ModelFacts, RowProblem, TokenHistogram
from finetune_operator.api.plan import Plan, PlanError
from finetune_operator.cli.main import main
from finetune_operator.cli.tables import inspection_table, memory_comparison_table
from finetune_operator.planner.history import FinishedRun, record

MANIFEST = """
apiVersion: finetune-operator.dev/v1alpha1
kind: FineTuneJob
metadata: {{name: tune}}
spec:
  model: {{uri: "{model}"}}
  dataset: {{uri: "{dataset}"}}
  tuning: {{method: {method}}}
  resources: {resources}
  output: {{uri: "s3://models/tune"}}
"""

TINY = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 160,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "vocab_size": 512,
}


def write_job(
    folder: Path,
    *,
    model: str = "hf://meta-llama/Meta-Llama-3-8B",
    dataset: str = "s3://data/rows.jsonl",
    method: str = "lora",
    resources: str = "{}",
) -> str:
    path = folder / "job.yaml"
    path.write_text(MANIFEST.format(model=model, dataset=dataset, method=method, resources=resources))
    return str(path)


def write_model(folder: Path) -> str:
    (folder / "model").mkdir()
    (folder / "model" / "config.json").write_text(json.dumps(TINY))
    return f"file://{folder / 'model'}"


def test_a_plan_is_printed_as_a_table_that_says_what_was_assumed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", "-f", write_job(tmp_path)]) == 0
    printed = capsys.readouterr().out
    for word in ("Strategy", "backward", "weights", "chosen, cheapest", "no inventory given", "not inspected"):
        assert word in printed


def test_json_output_is_a_plan(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "-f", write_job(tmp_path), "-o", "json"]) == 0
    plan = Plan.model_validate(json.loads(capsys.readouterr().out))
    assert plan.trainable_parameters == 41_943_040


def test_the_manifest_may_come_from_standard_input(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(Path(write_job(tmp_path)).read_text()))
    assert main(["plan", "-f", "-", "-o", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["accelerator"] == "gpu"


def test_a_local_model_and_data_set_are_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"prompt": "a", "completion": "b"}\n' * 130)
    job = write_job(
        tmp_path,
        model=write_model(tmp_path),
        dataset=f"file://{rows}",
        method="full",
        resources="{accelerator: cpu, processes: 2}",
    )
    assert main(["plan", "-f", job, "-o", "json"]) == 0
    plan = Plan.model_validate(json.loads(capsys.readouterr().out))
    assert (plan.rows, plan.steps_per_epoch, plan.total_steps) == (130, 3, 7)
    assert (plan.accelerator, plan.processes, plan.strategy) == ("cpu", 2, "fsdp")
    assert any("130 lines" in assumption for assumption in plan.assumptions)


def test_an_inventory_file_decides_what_is_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    inventory = tmp_path / "nodes.yaml"
    inventory.write_text(
        "gpuNodes:\n- {product: NVIDIA-L4, memoryBytes: 24152899584, gpusPerNode: 1, nodes: 2, cpuMillicores: 8000, hostMemoryBytes: 34359738368}\n"
    )
    assert main(["plan", "-f", write_job(tmp_path, method="qlora"), "--inventory", str(inventory), "-o", "json"]) == 0
    plan = Plan.model_validate(json.loads(capsys.readouterr().out))
    assert plan.gpu_product == "NVIDIA-L4"
    assert not any("inventory" in assumption for assumption in plan.assumptions)


def test_a_job_that_does_not_fit_ends_with_3_and_a_remedy(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    job = write_job(tmp_path, method="full", resources="{gpuProduct: [Tesla-T4], gpus: 1}")
    assert main(["plan", "-f", job, "-o", "json"]) == 3
    captured = capsys.readouterr()
    assert PlanError.model_validate(json.loads(captured.out)).reason == "DoesNotFit"
    assert "DoesNotFit" in captured.err
    assert "qlora" in captured.err


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"model": "hf://nobody/unheard-of"}, ("hf://nobody/unheard-of", "--inspection")),
        ({"model": "file:///does/not/exist"}, ("config.json", "cannot be read")),
        ({"resources": "{gpuProduct: [NVIDIA-GeForce-GTX-1080]}"}, ("resources.gpuProduct", "--inventory")),
        ({"method": "magic"}, ("tuning.method", "magic")),
    ],
)
def test_what_cannot_be_used_ends_with_2_and_names_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], change: dict[str, str], words: tuple[str, ...]
) -> None:
    assert main(["plan", "-f", write_job(tmp_path, **change)]) == 2
    error = capsys.readouterr().err
    assert all(word in error for word in words)


def test_a_missing_manifest_ends_with_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "-f", "/does/not/exist.yaml"]) == 2
    assert "/does/not/exist.yaml" in capsys.readouterr().err


def test_an_inventory_that_is_none_ends_with_2_and_names_the_field(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    inventory = tmp_path / "nodes.json"
    inventory.write_text('{"gpuNodes": [{"product": "NVIDIA-L4"}]}')
    assert main(["plan", "-f", write_job(tmp_path), "--inventory", str(inventory)]) == 2
    assert "gpuNodes.0.memoryBytes" in capsys.readouterr().err


def test_planning_imports_neither_torch_nor_the_kubernetes_client(tmp_path: Path) -> None:
    """Imports are what a second is made of; the time itself is measured by bench/plan_start.py."""
    program = (
        "import sys; from finetune_operator.cli.main import main; code = main(sys.argv[1:]); "
        "print(sorted({name.split('.')[0] for name in sys.modules} & {'torch', 'transformers', 'kubernetes', 'kopf', 'numpy'})); sys.exit(code)"
    )
    result = subprocess.run(
        [sys.executable, "-c", program, "plan", "-f", write_job(tmp_path)],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert result.stdout.strip().splitlines()[-1] == "[]"


def printed(renderable: RenderableType) -> str:
    console = Console(file=io.StringIO(), width=160)
    console.print(renderable)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_predicted_and_measured_memory_stand_side_by_side_for_every_rank(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", "-f", write_job(tmp_path), "-o", "json"]) == 0
    plan = Plan.model_validate(json.loads(capsys.readouterr().out))
    expected = plan.memory.expected_bytes
    text = printed(memory_comparison_table(plan, {1: expected, 0: expected // 2}))
    assert text.index("0.50") < text.index("1.00")
    assert f"{plan.memory.upper_bytes / 2**30:.2f}" in text


def test_an_inspection_is_shown_by_numbers_and_line_numbers_only() -> None:
    tokens = TokenHistogram(
        edges=(1, 9), counts=(7,), minimum=1, maximum=8, mean=4.0, median=4, percentile_99=8, total=28
    )
    model = ModelFacts(
        uri="hf://org/tiny",
        revision="0123456789abcdef",
        architecture="LlamaForCausalLM",
        config={},
        parameters=1234567,
        weight_bytes=2**30,
        dtypes={},
        files=(),
    )
    problem = RowProblem(file="rows.jsonl", line=17, reason="no completion")
    data = DatasetFacts(
        uri="s3://data/rows.jsonl", format="messages", files=(), rows=7, dropped=1, problems=(problem,), tokens=tokens
    )
    report = InspectionReport(key="k", job="team/tune", finished_at="", seconds=1.0, model=model, dataset=data)
    text = printed(inspection_table(report))
    for words in ("1,234,567", "7 usable, 1 dropped", "rows.jsonl:17", "no completion"):
        assert words in text


def test_the_readme_shows_what_the_command_prints(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Write the README's block anew with: make golden."""
    monkeypatch.setenv("COLUMNS", "200")
    readme = Path(__file__).parents[2] / "README.md"
    before, start, rest = readme.read_text().partition("$ finetune plan -f examples/minimal.yaml\n")
    block, end, after = rest.partition("\n…")
    assert main(["plan", "-f", str(readme.parent / "examples" / "minimal.yaml")]) == 0
    printed = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    if os.environ.get("REGENERATE_GOLDEN"):
        memory_ends = next(number for number, line in enumerate(printed) if line.startswith("sum "))
        block = "\n".join(line for line in printed[: memory_ends + 1] if not line.startswith("Steps"))
        readme.write_text(before + start + block + end + after)
    assert block
    assert [line for line in block.splitlines() if line not in printed] == []


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
    tainted = {"taints": [{"key": "team", "value": "vision", "effect": "NoSchedule"}]}
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
            '{"items": [{"status": {"allocatable": {"cpu": "many"}}}]}',
            "its items are no Nodes: node : status",
        ),
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
