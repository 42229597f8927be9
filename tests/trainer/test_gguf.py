"""GGUF files: llama.cpp cuts text and goes on with it as transformers does, for every family that is offered."""

from __future__ import annotations

from pathlib import Path

import gguf
import pytest

from finetune_operator.api.gguf import GGUF_ARCHITECTURES
from finetune_trainer.testing_gguf import FAMILIES
from finetune_trainer.testing_ranks import RankServer


def test_every_family_that_is_offered_is_tried() -> None:
    assert set(FAMILIES) == set(GGUF_ARCHITECTURES)


@pytest.mark.parametrize("kind", FAMILIES)
def test_llama_cpp_generates_what_transformers_generates(kind: str, ranks: RankServer, tmp_path: Path) -> None:
    types = ["f16", "q8_0"] if kind == "llama" else ["f16"]
    made = ranks.call(
        "finetune_trainer.testing_gguf:compare_with_llama_cpp", folder=str(tmp_path), kind=kind, types=types
    )
    for found, expected in zip(made["f16"], made["transformers"], strict=True):
        assert found["tokens"] == expected["tokens"]
        pairs = list(zip(found["continued"], expected["continued"], strict=True))
        first = next((place for place, (ours, theirs) in enumerate(pairs) if ours != theirs), None)
        if first is not None:  # from here on they continue different texts
            assert pairs[first][0] in expected["near"][first], f"token {first} of {pairs}"
    equal = [
        found["continued"] == expected["continued"]
        for found, expected in zip(made["f16"], made["transformers"], strict=True)
    ]
    assert sum(equal) >= len(equal) - 1
    if "q8_0" in types:
        assert [each["tokens"] for each in made["q8_0"]] == [each["tokens"] for each in made["transformers"]]
        stored = {tensor.tensor_type.name for tensor in gguf.GGUFReader(tmp_path / "llama-Q8_0.gguf").tensors}
        assert stored == {"Q8_0", "F32"}


def test_a_file_with_a_changed_weight_is_found(ranks: RankServer, tmp_path: Path) -> None:
    call = "finetune_trainer.testing_gguf:"
    ranks.call(f"{call}write_file", folder=str(tmp_path), kind="qwen2", stored="q8_0")
    assert ranks.call(f"{call}check_file", folder=str(tmp_path), kind="qwen2", stored="q8_0") is None
    file = tmp_path / "qwen2-Q8_0.gguf"
    content = bytearray(file.read_bytes())
    content[-1000] ^= 0x40
    file.write_bytes(content)
    problem = ranks.call(f"{call}check_file", folder=str(tmp_path), kind="qwen2", stored="q8_0")
    assert "is not what was written; nothing was published" in problem
