"""A reward model in a rank: whole, frozen and apart from what the strategy shards, on every rank for that rank's own answers.

TRL 1.16 takes reward models too. It hands them to accelerate, scores all answers of a step at once, uncut, and puts no end behind plain text; here
prompt and answer become the tokens that objective `reward` has learned from, by the same code, in batches whose size the plan knows.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForSequenceClassification
from transformers.integrations.deepspeed import set_hf_deepspeed_config, unset_hf_deepspeed_config

from finetune_operator.api.exit_codes import ExitCode
from finetune_operator.api.rewards import SCORED_LENGTHS, scored_tokens
from finetune_trainer.failures import TrainerFailure
from finetune_trainer.rendering import Unanswerable, answered
from finetune_trainer.rows import Message
from finetune_trainer.storage import open_storage
from finetune_trainer.tokenizer_files import read_tokenizer


class ModelScores:
    """Gives each prompt with its answer the number of one reward model."""

    def __init__(self, folder: Path, arguments: Any, *, dtype: torch.dtype, micro_batch: int, max_length: int) -> None:
        with _whole(arguments):
            self._model, found = AutoModelForSequenceClassification.from_pretrained(
                folder, dtype=dtype, local_files_only=True, output_loading_info=True
            )
        if found["missing_keys"]:
            raise TrainerFailure(
                ExitCode.BAD_DATA,
                f"the reward model lacks {len(found['missing_keys'])} of its weights, such as {min(found['missing_keys'])}; publish it again",
            )
        self._model.requires_grad_(False).eval().to(arguments.device)
        self._model.config.use_cache = False
        self._device = arguments.device
        self._files = read_tokenizer(open_storage(f"file://{folder}"))
        self._pad = self._padding()
        self._model.config.get_text_config().pad_token_id = (
            self._pad
        )  # the score is that of the last token that is another one
        positions = getattr(self._model.config, "max_position_embeddings", None)
        self._longest = min(SCORED_LENGTHS * max_length, positions or math.inf)
        self._room = scored_tokens(micro_batch, max_length)

    def _padding(self) -> int:
        """Return the token that training padded with (TRL 1.16, RewardTrainer): the tokenizer's, or else its end token."""
        known = self._files.special_tokens
        token = known.get("pad_token") or known.get("eos_token") or ""
        found = self._files.tokenizer.token_to_id(token)
        return int(found if found is not None else self._model.config.get_text_config().pad_token_id or 0)

    def score(self, prompts: Sequence[Any], completions: Sequence[Any]) -> list[float]:
        """Return a number for each prompt with its answer, texts or lists of messages, in order.

        Raises:
            TrainerFailure: the model gives a number that is none.
        """
        rows = [self._tokens(prompt, answer) for prompt, answer in zip(prompts, completions, strict=True)]
        scores = [0.0] * len(rows)
        for batch in self._batches([len(row) for row in rows]):
            found = self._forward([rows[index] for index in batch])
            for index, value in zip(batch, found, strict=True):
                scores[index] = value
        if not all(map(math.isfinite, scores)):
            raise TrainerFailure(
                ExitCode.BAD_DATA,
                "the reward model gives an answer no finite number; try it alone, or set training.precision: fp32",
            )
        return scores

    def try_largest(self) -> None:
        """Score the largest batches that there can be, so that memory is seen to be enough before the first step."""
        for length in (self._room // SCORED_LENGTHS, self._room):
            width = int(min(length, self._longest))
            self._forward([[self._pad] * width] * max(1, self._room // width))

    def _tokens(self, prompt: Any, answer: Any) -> list[int]:
        try:
            text = answered(_read(prompt), _read(answer), self._files)
        except Unanswerable as problem:
            raise TrainerFailure(ExitCode.BAD_DATA, f"a reward model cannot read an answer: {problem}") from None
        tokens = self._files.tokenizer.encode(text.text, add_special_tokens=not text.by_template).ids
        return list(tokens[: int(min(len(tokens), self._longest))])

    def _batches(self, lengths: Sequence[int]) -> Iterator[list[int]]:
        """Yield the numbers of all rows, those of like lengths together, as many as there is room for when all are padded to the longest."""
        order = sorted(range(len(lengths)), key=lambda index: (-lengths[index], index))
        while order:
            count = max(1, self._room // max(1, lengths[order[0]]))
            yield order[:count]
            order = order[count:]

    @torch.inference_mode()
    def _forward(self, rows: Sequence[Sequence[int]]) -> list[float]:
        longest = max(map(len, rows))
        tokens = torch.tensor([[*row, *[self._pad] * (longest - len(row))] for row in rows], device=self._device)
        real = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows], device=self._device)
        found: list[float] = self._model(input_ids=tokens, attention_mask=real).logits[:, 0].float().tolist()
        return found


def _read(said: Any) -> Any:
    """Return a text, or TRL's list of messages as turns."""
    if isinstance(said, str):
        return said
    return tuple(
        Message(
            turn["role"],
            turn.get("content") or "",
            {name: value for name, value in turn.items() if name not in ("role", "content") and value is not None},
        )
        for turn in said
    )


@contextlib.contextmanager
def _whole(arguments: Any) -> Iterator[None]:
    """Keep transformers from sharding what is loaded meanwhile: with ZeRO-3 it does so with every model of the process."""
    deepspeed = getattr(arguments, "hf_deepspeed_config", None)
    if deepspeed is None:
        yield
        return
    unset_hf_deepspeed_config()
    try:
        yield
    finally:
        set_hf_deepspeed_config(deepspeed)
