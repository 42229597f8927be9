"""A model's folder without torch: config, a safetensors header with zeros behind it, a real tokenizer; and requests that name it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from finetune_operator.api.inspection import InspectionRequest
from finetune_trainer.testing import CHAT_TEMPLATE, SPECIAL_TOKENS

CONFIG = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 8, "num_attention_heads": 2}


def write_safetensors(path: Path, shapes: dict[str, tuple[int, ...]], dtype: str = "BF16") -> None:
    header, end = dict[str, Any](), 0
    for name, shape in shapes.items():
        size = 2
        for length in shape:
            size *= length
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [end, end + size]}
        end += size
    raw = json.dumps(header).encode()
    path.write_bytes(len(raw).to_bytes(8, "little") + raw + bytes(end))


def write_model(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(CONFIG))
    write_safetensors(folder / "model.safetensors", {"embed": (16, 8), "head": (8,)})
    words = Tokenizer(models.BPE())
    words.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    words.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=list(SPECIAL_TOKENS), initial_alphabet=alphabet, show_progress=False
    )
    words.train_from_iterator(["How many apples does Ada have? 3 + 4 = 7 The answer is 7."] * 3, trainer)
    words.save(str(folder / "tokenizer.json"))
    tokens = {"eos_token": "<|im_end|>", "pad_token": "<|pad|>", "tokenizer_class": "PreTrainedTokenizerFast"}
    (folder / "tokenizer_config.json").write_text(json.dumps(tokens))
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE)
    return folder


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_model(tmp_path / "model")


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    path = tmp_path / "data" / "train.jsonl"
    path.parent.mkdir()
    path.write_text("".join(json.dumps({"prompt": f"{n} + 1 = ", "completion": f"{n + 1}"}) + "\n" for n in range(100)))
    return path


@pytest.fixture
def request_for(tmp_path: Path, model: Path, rows: Path) -> Callable[..., InspectionRequest]:
    def build(uid: str = "uid-1", **parts: dict[str, Any]) -> InspectionRequest:
        spec: dict[str, Any] = {
            "model": {"uri": f"file://{model}"},
            "dataset": {"uri": f"file://{rows}"},
            "output": {"uri": f"file://{tmp_path}/output"},
        }
        for name, fields in parts.items():
            spec[name] = {**spec.get(name, {}), **fields}
        return InspectionRequest.model_validate(
            {"namespace": "team", "name": "bot", "uid": uid, "spec": spec, "key": "0123456789abcdef"}
        )

    return build
