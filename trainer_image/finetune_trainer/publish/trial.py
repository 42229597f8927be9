"""The finished model is tried before anybody gets it: one that writes continues a prompt, others give their classes a score."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from finetune_operator.api.exit_codes import ExitCode
from finetune_trainer.failures import TrainerFailure

NEW_TOKENS: Final = 8
PROBE_TEXT: Final = "The answer is"


def probe_tokens(folder: Path) -> Any:
    """Return the ids of a short text, (1, tokens)."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder, local_files_only=True)(PROBE_TEXT, return_tensors="pt")["input_ids"]


def logits_of(model: Any, tokens: Any) -> Any:
    """Return the model's outputs in float32: (1, tokens, words), (1, tokens, classes), (1, classes) or, without a head, (1, tokens, hidden)."""
    import torch

    with torch.no_grad():
        output = model(input_ids=tokens)
    return (output.logits if "logits" in output else output.last_hidden_state).float()


@dataclass(frozen=True)
class Answer:
    """What a model makes of a prompt: what it continues it with, greedily, and its logits at every position of both."""

    tokens: Any
    prompt_length: int
    logits: Any

    @property
    def continuation(self) -> list[int]:
        """The tokens after the prompt; none of a model that does not write."""
        tokens: list[int] = self.tokens[0, self.prompt_length :].tolist()
        return tokens

    @property
    def generated(self) -> int:
        """How many tokens came after the prompt."""
        return len(self.continuation)


def answer(model: Any, prompt: Any) -> Answer:
    """Try a model: generate some tokens with one that writes. One whose logits are not finite is not published."""
    import torch

    tokens = _continued(model, prompt) if model.can_generate() else prompt
    logits = logits_of(model.eval(), tokens)
    if not bool(torch.isfinite(logits).all()):
        raise TrainerFailure(ExitCode.DIVERGED, "the trained model's logits are not finite; nothing was published")
    return Answer(tokens, int(prompt.shape[1]), logits)


def _continued(model: Any, prompt: Any) -> Any:
    import torch

    model.config.use_cache = True
    with torch.no_grad():
        return model.generate(
            input_ids=prompt,
            attention_mask=torch.ones_like(prompt),
            max_new_tokens=NEW_TOKENS,
            min_new_tokens=1,
            do_sample=False,
        )
