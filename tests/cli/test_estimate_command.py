"""`finetune estimate` as a user meets it: figures, picture, and answers to what cannot be used."""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from finetune_operator.api.plan import Component, MemoryEstimate, Phase
from finetune_operator.cli.estimate_command import add_arguments
from finetune_operator.cli.main import main
from finetune_operator.cli.memory_picture import COLOURS, ranges_table
from finetune_operator.planner.testing import SMALL, good, plan_of, spec_of

TINY = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 160,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "vocab_size": 512,
}
H200 = "NVIDIA-H200"
LLAMA = "meta-llama/Meta-Llama-3-8B"
ROOT = Path(__file__).parents[2]


def answer(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    assert main(["estimate", *arguments, "-o", "json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def device_bytes(found: dict[str, Any]) -> int:
    return MemoryEstimate.model_validate(found["memory"]).expected_bytes


def test_json_holds_parameters_and_an_estimate(capsys: pytest.CaptureFixture[str]) -> None:
    found = answer(capsys, LLAMA, "--gpu", "NVIDIA-L4")
    memory = MemoryEstimate.model_validate(found["memory"])
    assert (found["totalParameters"], found["trainableParameters"]) == (8_030_261_248, 41_943_040)
    assert memory.allocated.expected_bytes < memory.reserved.expected_bytes < memory.expected_bytes < memory.upper_bytes
    assert found["gpuMemoryBytes"] == 23034 * 2**20


def test_qlora_stores_the_weights_in_a_quarter(capsys: pytest.CaptureFixture[str]) -> None:
    lora, qlora = (device_bytes(answer(capsys, LLAMA, "--method", method)) for method in ("lora", "qlora"))
    assert qlora < 0.5 * lora


def test_a_folder_with_a_config_is_a_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "config.json").write_text(json.dumps(TINY))
    assert answer(capsys, str(tmp_path), "--method", "full")["trainableParameters"] > 100_000


def test_the_picture_shows_every_phase_as_a_bar_that_is_as_long_as_its_share_of_the_scale(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    assert main(["estimate", LLAMA, "--method", "qlora", "--gpu", "NVIDIA-L4"]) == 0
    printed = capsys.readouterr().out
    memory = MemoryEstimate.model_validate(answer(capsys, LLAMA, "--method", "qlora")["memory"])
    capacity = 23034 * 2**20
    cells = 120 - max(len(phase.phase.value) for phase in memory.phases) - 14
    for phase in memory.phases:
        line = next(line for line in printed.splitlines() if line.startswith(f"{phase.phase.value} "))
        bar = re.match(r"[a-z-]+ +([A-Z]+)", line)
        assert bar is not None
        assert len(bar[1]) == pytest.approx(cells * phase.total / max(capacity, memory.upper_bytes), abs=1)
        assert "┃" in line
    assert "fits" in printed
    assert "torch.cuda.max_memory_reserved" in printed


def test_a_length_that_the_model_was_not_made_for_is_said_to_be(capsys: pytest.CaptureFixture[str]) -> None:
    for length, is_said in ((512, False), (513, True)):
        assert main(["estimate", "google-bert/bert-base-uncased", "--method", "full", "--length", str(length)]) == 0
        assert ("more than the 512 positions" in " ".join(capsys.readouterr().out.split())) is is_said


@pytest.mark.parametrize(
    ("method", "gpus", "strategy"),
    [("full", 8, "fsdp"), ("lora", 1, "single"), ("lora", 4, "zero2"), ("qlora", 2, "fsdp"), ("full", 2, "ddp")],
)
def test_a_plan_and_an_estimate_of_the_same_thing_are_equal(
    method: str, gpus: int, strategy: str, capsys: pytest.CaptureFixture[str]
) -> None:
    resources = {"gpuProduct": [H200], "gpus": gpus, "microBatchSize": 1, "gradientCheckpointing": "full"}
    if gpus > 1:
        resources["strategy"] = strategy
    plan = good(plan_of(spec_of(SMALL, method=method, resources=resources, training={"globalBatchSize": 4 * gpus})))
    options = ["--method", method, "--gpus", str(gpus), "--strategy", strategy, "--accumulation", "4"]
    found = MemoryEstimate.model_validate(answer(capsys, SMALL, *options)["memory"])
    assert found == plan.memory


def test_host_memory_says_who_reads_the_weights_and_what_is_offloaded(capsys: pytest.CaptureFixture[str]) -> None:
    def said(*options: str) -> str:
        assert main(["estimate", LLAMA, "--method", "full", *options]) == 0
        return " ".join(capsys.readouterr().out.partition("Host memory: ")[2].split())

    assert said() == "29.9 GiB while each process loads the model"
    assert said("--gpus", "8") == "29.9 GiB while the first process alone loads the model"
    assert "GiB offloaded by each process" in said("--gpus", "8", "--strategy", "zero3", "--offload", "optimizer")


def test_an_evaluation_is_a_phase(capsys: pytest.CaptureFixture[str]) -> None:
    memory = MemoryEstimate.model_validate(answer(capsys, LLAMA, "--evaluation-batch", "4")["memory"])
    assert Phase.EVALUATION in [phase.phase for phase in memory.phases]


def test_of_a_multimodal_model_it_is_said_that_the_text_part_alone_is_counted(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for model, is_said in (("google/gemma-3-4b-it", True), ("google/gemma-3-1b-it", False)):
        assert main(["estimate", model]) == 0
        assert ("the text part alone" in " ".join(capsys.readouterr().out.split())) is is_said


def test_what_fits_is_what_the_planner_would_take(capsys: pytest.CaptureFixture[str]) -> None:
    """The planner leaves 2 % of a GPU free (pools.GPU_RESERVE): so near below its memory the estimate must not say `fits`."""
    memory = MemoryEstimate.model_validate(answer(capsys, LLAMA)["memory"])
    console = Console(width=120)
    for share, word in ((0.985, "does not fit"), (0.975, "fits")):
        with console.capture() as captured:
            console.print(ranges_table(memory, round(memory.upper_bytes / share)))
        assert f"; {word}: " in captured.get()


def test_a_gpu_that_is_too_small_is_said_to_be(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["estimate", LLAMA, "--method", "full", "--gpu", "Tesla-T4"]) == 0
    assert "does not fit" in capsys.readouterr().out


def test_every_component_has_a_colour_and_a_letter_of_its_own() -> None:
    assert set(COLOURS) == set(Component)
    assert len({component.value[0] for component in Component}) == len(Component)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["Qwen/Qwen3-9B"], ("Qwen/Qwen3-9B", "did you mean", "Qwen/Qwen3-8B", "config.json")),
        ([LLAMA, "--gpu", "RTX-9999"], ("--gpu", "RTX-9999", "NVIDIA-L4")),
        ([LLAMA, "--targets", "c_attn"], ("--targets", "c_attn", "q_proj")),
        ([LLAMA, "--gpus", "8", "--strategy", "single"], ("--strategy", "--gpus is 8", "fsdp")),
        ([LLAMA, "--gpus", "1", "--strategy", "fsdp"], ("--strategy", "fsdp", "--gpus is 1", "single")),
        ([LLAMA, "--offload", "optimizer"], ("--offload", "single", "zero2")),
        ([LLAMA, "--method", "freeze", "--trained-layers", "33"], ("--trained-layers", "33", "32 layers")),
        ([LLAMA, "--dropout", "1.5"], ("--dropout", "1.5")),
        ([LLAMA, "--method", "full", "--quantization", "nf4"], ("--quantization", "full", "qlora")),
    ],
)
def test_what_cannot_be_used_is_named_with_what_to_do(
    arguments: list[str], words: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["estimate", *arguments]) == 2
    said = capsys.readouterr().err
    assert [word for word in words if word not in said] == []


def test_the_reference_page_names_every_option_and_no_other() -> None:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    options = {option for action in parser._actions for option in action.option_strings if option.startswith("--")}
    page = (ROOT / "docs/reference/estimate.md").read_text()
    assert set(re.findall(r"`(--[a-z-]+)", page)) == options - {"--help"}
