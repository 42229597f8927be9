"""`finetune checkpoints` shows people what the trainer's library finds."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from finetune_operator.api.checkpoint_listing import StoredCheckpoint
from finetune_operator.cli.checkpoints_command import checkpoints_view
from finetune_operator.cli.main import main
from finetune_trainer import checkpoint_tool


def shown(*checkpoints: StoredCheckpoint) -> str:
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(checkpoints_view(checkpoints))
    return console.export_text()


def test_a_checkpoint_is_a_row_and_its_problem_stands_below() -> None:
    text = shown(
        StoredCheckpoint(
            uri="s3://models/tune/checkpoints/tune-0f1e2d3c/step-00000100/1",
            step=100,
            attempt=1,
            state="damaged",
            problem="model.safetensors is missing",
            files=12,
            total_bytes=3 * 2**30,
            processes=8,
            strategy="fsdp",
            written="2026-01-01T12:00:00Z",
        ),
        StoredCheckpoint(uri="s3://models/x/step-00000050/1-2", step=50, attempt=1, start=2, state="unfinished"),
    )
    first = next(line for line in text.splitlines() if "damaged" in line)
    for part in ("step-00000100/1", "3.00 GiB", "12", "fsdp × 8", "2026-01-01 12:00:00"):
        assert part in first
    assert "model.safetensors is missing" in text
    assert "step-00000050/1-2" in text
    assert max(map(len, text.splitlines())) <= 80


def test_an_empty_folder_ends_with_the_trainers_words_and_code(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["checkpoints", "verify", f"file://{tmp_path}"]) == 43
    said = capfd.readouterr()
    assert "no checkpoint is there or below" in said.err
    assert said.out == ""


def test_the_hub_is_no_place_for_checkpoints(capsys: pytest.CaptureFixture[str]) -> None:
    assert checkpoint_tool.run(["list", "hf://org/model"]) == 40
    said = capsys.readouterr().err
    assert "checkpoints never lie on the hub" in said
    assert "s3://, gs://, az:// or file://" in said
