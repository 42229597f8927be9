"""The inspection refuses formats that cannot be made of the model, from its small files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from finetune_operator.api.reasons import Reason
from finetune_trainer.failures import TrainerFailure
from finetune_trainer.inspect.formats import check_formats
from finetune_trainer.model_files import open_model


def test_a_tokenizer_that_llama_cpp_lacks_is_refused(request_for: Any, model: Path) -> None:
    spec = request_for(output={"gguf": ["q8_0"]}).spec
    check_formats(spec, open_model(spec.model))
    tokenizer = json.loads((model / "tokenizer.json").read_text())
    tokenizer["normalizer"] = {"type": "Lowercase"}
    (model / "tokenizer.json").write_text(json.dumps(tokenizer))

    with pytest.raises(
        TrainerFailure, match=r"changes text before it is cut \(Lowercase\)\. Remove output\.gguf"
    ) as refused:
        check_formats(spec, open_model(spec.model))

    assert refused.value.reason == Reason.UNSUPPORTED_COMBINATION


def test_no_format_asks_for_no_tokenizer(request_for: Any, model: Path) -> None:
    (model / "tokenizer.json").write_text("{}")
    spec = request_for().spec
    check_formats(spec, open_model(spec.model))
