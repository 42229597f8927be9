"""A local model that no table knows: what the commands say where it cannot be traced. That it can: tests/inspect/test_trace.py."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from finetune_operator.cli.main import main
from finetune_operator.cli.model_trace import trace_of_folder

UNKNOWN = {"model_type": "newest", "num_hidden_layers": 2, "hidden_size": 64}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_text(json.dumps(UNKNOWN))
    return tmp_path


def test_without_the_trainers_packages_it_says_how_to_get_them(folder: Path) -> None:
    said = trace_of_folder(folder, needed=("json", "no_such_package"))
    assert isinstance(said, str)
    assert "no_such_package cannot be imported here" in said
    assert "pip install 'finetune-operator[trainer]'" in said


def test_a_model_whose_own_code_would_be_trained_is_not_traced(folder: Path) -> None:
    (folder / "config.json").write_text(json.dumps({**UNKNOWN, "auto_map": {"AutoModelForCausalLM": "m.M"}}))
    said = trace_of_folder(folder, trusts_code=True)
    assert isinstance(said, str)
    assert "model.trustRemoteCode" in said


def test_what_the_oracle_cannot_trace_is_told_with_its_error(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["estimate", str(folder)]) == 2
    said = capsys.readouterr().err
    assert "model_type 'newest', which the memory estimator does not know" in said
    assert "could not be traced on fake tensors either: cannot be traced: ValueError: Unrecognized model" in said
