"""The teacher of objective distill is looked at by the inspection: what is known of it, and which are refused before a GPU is taken."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from finetune_operator.api.inspection import InspectionRequest, inspection_key
from finetune_operator.api.spec import FineTuneJobSpec
from finetune_trainer.failures import TrainerFailure
from finetune_trainer.inspect.command import inspect

Requests = Callable[..., InspectionRequest]


@pytest.fixture
def teacher(model: Path, tmp_path: Path) -> Path:
    return shutil.copytree(model, tmp_path / "teacher")


def with_teacher(request: InspectionRequest, teacher: Path, **more: Any) -> InspectionRequest:
    spec = request.spec.to_json_dict()
    training: dict[str, Any] = {"distill": {"teacher": {"uri": f"file://{teacher}", **more}}}
    spec |= {"objective": "distill", "training": training}
    return request.model_copy(update={"spec": FineTuneJobSpec.model_validate(spec)})


def test_the_report_has_the_teacher_and_the_key_depends_on_it(
    request_for: Requests, model: Path, teacher: Path
) -> None:
    request = with_teacher(request_for(), teacher)
    found = inspect(request).teacher
    assert found is not None
    assert (found.uri, found.parameters) == (f"file://{teacher}", 136)
    assert {file.uri.rsplit("/", 1)[-1] for file in found.files} >= {"model.safetensors", "tokenizer.json"}
    other = with_teacher(request_for(), model)
    assert inspection_key("team", request.spec) != inspection_key("team", other.spec)


def test_a_teacher_of_another_vocabulary_is_refused_with_the_first_token_that_differs(
    request_for: Requests, teacher: Path
) -> None:
    path = teacher / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    words = tokenizer["model"]["vocab"]
    words["!"], words['"'] = words['"'], words["!"]
    path.write_text(json.dumps(tokenizer))
    with pytest.raises(
        TrainerFailure,
        match=r"training\.distill\.teacher: .* another vocabulary .* \(2 of .* '!', number .* objective: sft",
    ):
        inspect(with_teacher(request_for(), teacher))


def test_an_encoder_teaches_nothing(request_for: Requests, teacher: Path) -> None:
    path = teacher / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"model_type": "bert"}))
    with pytest.raises(TrainerFailure, match=r"training\.distill\.teacher: .* is an encoder \(bert\)"):
        inspect(with_teacher(request_for(), teacher))


def test_a_teacher_with_code_of_its_own_is_refused_by_its_own_field(request_for: Requests, teacher: Path) -> None:
    path = teacher / "config.json"
    config = {"auto_map": {"AutoModelForCausalLM": "own.Model"}, "model_type": "own"}
    path.write_text(json.dumps(json.loads(path.read_text()) | config))
    with pytest.raises(TrainerFailure, match=r"set training\.distill\.teacher\.trustRemoteCode: true"):
        inspect(with_teacher(request_for(), teacher))
    assert inspect(with_teacher(request_for(), teacher, trustRemoteCode=True)).teacher is not None
