"""`finetune plan` as a user meets it: exit codes, words and speed."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from rich.console import Console, RenderableType
from tests.cli.job_files import write_job, write_model

from finetune_operator.api.inspection import (
    DatasetFacts,
    InspectionReport,
    ModelFacts,
    RowProblem,
    SourceFacts,
    TokenHistogram,
)
from finetune_operator.api.plan import Plan, PlanError
from finetune_operator.cli.main import main
from finetune_operator.cli.tables import inspection_table, memory_comparison_table


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
        ({"model": "hf://Qwen/Qwen3-9B"}, ("hf://Qwen/Qwen3-9B", "did you mean", "Qwen/Qwen3-8B", "--inspection")),
        ({"resources": "{gpuProduct: [AMD-Instinct-MI300X]}"}, ("resources.gpuProduct", "AMD")),
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
    assert capsys.readouterr().err == "finetune plan: /does/not/exist.yaml: cannot be read: No such file or directory\n"


def test_a_gpu_type_that_is_too_small_is_refused_with_the_type_that_would_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job = write_job(tmp_path, model="hf://meta-llama/Llama-3.1-70B", resources="{gpuProduct: [Tesla-T4]}")
    assert main(["plan", "-f", job]) == 3
    assert re.search(r"it needs .*\d+ × NVIDIA", capsys.readouterr().err)


def test_a_short_name_of_a_gpu_type_is_planned_and_said_to_be_no_label(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for product, is_said in (
        ("H100", True),
        ("NVIDIA-H100-80GB-HBM3", False),
        ("NVIDIA-A100-SXM4-80GB-MIG-3g.40gb", False),
    ):
        assert main(["plan", "-f", write_job(tmp_path, resources=f"{{gpuProduct: [{product}]}}"), "-o", "json"]) == 0
        assumptions = json.loads(capsys.readouterr().out)["assumptions"]
        assert any("has to equal the node label" in assumption for assumption in assumptions) is is_said


def test_a_reader_that_goes_away_is_no_failure_of_ours(tmp_path: Path) -> None:
    """`finetune plan -o json | head -1`: no traceback, and the exit code of programs that a closed pipe has ended."""
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "finetune_operator.cli.main", "plan", "-f", write_job(tmp_path), "-o", "json"]
    result = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, timeout=110, check=False)
    os.close(writing)
    assert (result.returncode, result.stderr) == (141, b"")


def test_a_slow_plan_is_told_in_hours_and_a_long_sentence_hangs_below_its_own_begin(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    job = write_job(tmp_path, resources="{accelerator: cpu}")
    assert main(["plan", "-f", job]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert re.search(r"about \d+h\d\dm per step, \d\.\d tokens/s", next(line for line in lines if "Speed" in line))
    reasons = lines[lines.index(next(line for line in lines if line.startswith("Why"))) + 1 :]
    assert all(line.startswith(("  - ", "    ")) for line in reasons if line.strip() and not line.startswith("Assumed"))
    assert max(map(len, lines)) <= 80


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
        timeout=110,
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
        uri="s3://data/[bold]rows.jsonl",
        format="messages",
        files=(),
        rows=7,
        dropped=1,
        problems=(problem,),
        tokens=tokens,
        sources=(SourceFacts(uri="s3://b.jsonl", format="text", weight=0.5, files=(), usable=12, rows=6, dropped=3),),
    )
    report = InspectionReport(key="k", job="team/tune", finished_at="", seconds=1.0, model=model, dataset=data)
    text = printed(inspection_table(report))
    for words in ("s3://data/[bold]rows.jsonl", "1,234,567", "7 usable, 1 dropped", "rows.jsonl:17", "no completion"):
        assert words in text
    assert "s3://b.jsonl (text): 12 usable rows make 6; 0 to evaluate on, 3 dropped" in text


def test_lines_of_several_data_sets_are_counted_by_their_weights(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, count in (("a", 100), ("b", 40)):
        (tmp_path / f"{name}.jsonl").write_text('{"prompt": "a", "completion": "b"}\n' * count)
    path = Path(write_job(tmp_path))
    job = yaml.safe_load(path.read_text())
    del job["spec"]["dataset"]
    job["spec"]["datasets"] = [
        {"uri": f"file://{tmp_path}/a.jsonl", "weight": 0.5},
        {"uri": f"file://{tmp_path}/b.jsonl", "weight": 2},
    ]
    path.write_text(yaml.safe_dump(job))
    assert main(["plan", "-f", str(path), "-o", "json"]) == 0
    plan = Plan.model_validate(json.loads(capsys.readouterr().out))
    assert plan.rows == 130
    assert any("as often as its weight says" in assumption for assumption in plan.assumptions)


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
