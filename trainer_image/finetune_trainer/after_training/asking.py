"""What a model answers, greedily, and how well it predicts texts. Batches have rows of like lengths; the order of rows does not change an answer.

Out of GPU memory, a batch is tried again in halves: the plan's batch is an estimate.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

import torch

from finetune_trainer.after_training.gpu_memory import does_not_fit, is_out_of_gpu_memory
from finetune_trainer.after_training.rows import Passage, Question
from finetune_trainer.encoding import IGNORED

_T = TypeVar("_T")


def answers_of(
    model: Any,
    questions: Sequence[Question],
    *,
    batch: int,
    new_tokens: int,
    ends: Iterable[int],
    padding: int,
    decode: Callable[[list[int]], str],
    count: Callable[[int], None],
) -> list[str]:
    """Return a model's answer to each question, of up to `new_tokens` tokens; one of `ends` ends it. `count` hears of every batch's rows."""
    ends = sorted(set(ends))

    def ask(numbers: Sequence[int]) -> list[str]:
        width = max(len(questions[number].prompt) for number in numbers)
        tokens = torch.full((len(numbers), width), padding)
        mask = torch.zeros_like(tokens)
        for row, number in enumerate(numbers):
            prompt = questions[number].prompt
            tokens[row, width - len(prompt) :] = torch.tensor(prompt)
            mask[row, width - len(prompt) :] = 1
        device = next(model.parameters()).device
        with torch.no_grad():
            made = model.generate(
                input_ids=tokens.to(device),
                attention_mask=mask.to(device),
                max_new_tokens=new_tokens,
                do_sample=False,
                num_beams=1,
                # What a model's generation_config.json says of sampling is not for greedy answers.
                temperature=None,
                top_p=None,
                top_k=None,
                eos_token_id=ends,
                pad_token_id=padding,
            )
        return [decode(_until(row[-(made.shape[1] - width) :].tolist(), ends)) for row in made]

    lengths = [len(question.prompt) for question in questions]

    def refuse(length: int, error: Exception) -> Exception:
        return does_not_fit(
            f"evaluation.maxNewTokens: {new_tokens} tokens of an answer after a prompt of {length}",
            "lower evaluation.maxNewTokens, or keep only perplexity in evaluation.metrics",
            error,
        )

    return list(_in_batches(lengths, batch, ask, count, refuse))


def _until(tokens: list[int], ends: Sequence[int]) -> list[int]:
    return tokens[: next((index for index, token in enumerate(tokens) if token in ends), len(tokens))]


def perplexity_of(
    model: Any, passages: Sequence[Passage], *, batch: int, padding: int, count: Callable[[int], None]
) -> float:
    """Return e to the mean loss over all counted tokens of the passages. `count` hears of every batch's rows."""

    def measure(numbers: Sequence[int]) -> list[tuple[float, int]]:
        width = max(len(passages[number].tokens) for number in numbers)
        tokens = torch.full((len(numbers), width), padding)
        labels = torch.full_like(tokens, IGNORED)
        mask = torch.zeros_like(tokens)
        for row, number in enumerate(numbers):
            length = len(passages[number].tokens)
            tokens[row, :length] = torch.tensor(passages[number].tokens)
            labels[row, :length] = torch.tensor(passages[number].labels)
            mask[row, :length] = 1
        device = next(model.parameters()).device
        with torch.no_grad():
            logits = model(input_ids=tokens.to(device), attention_mask=mask.to(device), use_cache=False).logits
        # Prompt tuning has outputs for its virtual tokens, too.
        logits = logits[:, -width:-1].float()
        labels = labels[:, 1:].to(logits.device)
        losses = torch.nn.functional.cross_entropy(
            logits.transpose(1, 2), labels, ignore_index=IGNORED, reduction="none"
        )
        counted = (labels != IGNORED).sum(dim=1).tolist()
        return list(zip(losses.sum(dim=1).tolist(), counted, strict=True))

    def refuse(length: int, error: Exception) -> Exception:
        what = f"evaluation.metrics: perplexity of a row of {length} tokens"
        return does_not_fit(what, "remove perplexity, or name shorter rows to evaluate on", error)

    found = list(_in_batches([len(passage.tokens) for passage in passages], batch, measure, count, refuse))
    return math.exp(sum(loss for loss, _ in found) / sum(tokens for _, tokens in found))


def _in_batches(
    lengths: Sequence[int],
    size: int,
    work: Callable[[Sequence[int]], list[_T]],
    count: Callable[[int], None],
    refuse: Callable[[int, Exception], Exception],
) -> Iterator[_T]:
    """Yield what `work` makes of each row, in the order of rows; the longest rows pass first, so that memory is seen to be enough."""
    order = sorted(range(len(lengths)), key=lambda number: -lengths[number])
    found: dict[int, _T] = {}
    waiting = [order[first : first + size] for first in range(0, len(order), size)]
    while waiting:
        numbers = waiting.pop(0)
        try:
            found.update(zip(numbers, work(numbers), strict=True))
            count(len(numbers))
        except RuntimeError as error:  # torch.OutOfMemoryError is one, and so is what cuBLAS says
            if not is_out_of_gpu_memory(error):
                raise
            if len(numbers) == 1:
                raise refuse(lengths[numbers[0]], error) from error
            torch.cuda.empty_cache()
            half = len(numbers) // 2
            waiting[:0] = [numbers[:half], numbers[half:]]
    return (found[number] for number in range(len(lengths)))
