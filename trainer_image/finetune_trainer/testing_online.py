"""What tests of grpo and rloo run on: sums of one digit, a model whose answers end early, and rewards of a user."""

from __future__ import annotations

import functools
import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

SUMS: Final[tuple[dict[str, Any], ...]] = tuple(
    {"prompt": f"{one}+{other}=", "answer": str(one + other)} for one in range(1, 9) for other in range(1, 10 - one)
)


def write_ending_model(folder: Path, model: Path, ends: int = 200) -> Path:
    """Copy a model so that so many words of its vocabulary end an answer: lengths differ from answer to answer, and from rank to rank."""
    shutil.copytree(model, folder)
    path = folder / "generation_config.json"
    settings = json.loads(path.read_text())
    path.write_text(json.dumps({**settings, "eos_token_id": list(range(300, 300 + ends))}))
    return folder


def first_is_digit(completions: Sequence[str], answer: Sequence[str], **others: Any) -> list[float | None]:
    """Return 1 for an answer that begins with a digit, None (no opinion) where the sum is 9."""
    return [
        None if right == "9" else float(text[:1].isdigit()) for text, right in zip(completions, answer, strict=True)
    ]


def no_opinion(completions: Sequence[str], **others: Any) -> list[float | None]:
    """Return None for every answer."""
    return [None] * len(completions)


@functools.cache
def _plain_judge(folder: Path) -> tuple[Any, Any]:
    import torch
    import transformers.integrations.deepspeed as integration
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    sharding = integration._hf_deepspeed_config_weak_ref
    integration.unset_hf_deepspeed_config()  # ZeRO-3 would take it for a part of the trained model
    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32)
    integration._hf_deepspeed_config_weak_ref = sharding
    return model.eval(), AutoTokenizer.from_pretrained(folder)


def plain_scores(prompts: Sequence[Any], completions: Sequence[Any], **others: Any) -> list[float]:
    """Return what the reward model in FINETUNE_TEST_REWARD_MODEL gives answers, one at a time and by transformers' own tokenizer."""
    import torch

    model, tokenizer = _plain_judge(Path(os.environ["FINETUNE_TEST_REWARD_MODEL"]))
    scores = []
    for prompt, answer in zip(prompts, completions, strict=True):
        if isinstance(prompt, str):
            tokens = tokenizer(f"{prompt}{answer}{tokenizer.eos_token}", return_tensors="pt")
        else:
            text = tokenizer.apply_chat_template(prompt + answer, tokenize=False)
            tokens = tokenizer(text, return_tensors="pt", add_special_tokens=False)
        with torch.no_grad():
            scores.append(float(model(**tokens).logits.squeeze()))
    return scores
