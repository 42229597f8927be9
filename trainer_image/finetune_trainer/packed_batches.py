"""Batches of packed rows, and the proof that rows in one sequence do not see each other.

transformers 5.23 keeps packed rows apart when it is given positions that start anew with each row, no attention mask and no cache: it makes a
block-diagonal mask of them. With a mask of ones, or with a cache, rows leak into each other without a word.
"""

from __future__ import annotations

from typing import Any, Final

import torch

from finetune_operator.api.exit_codes import ExitCode
from finetune_trainer.failures import TrainerFailure

ROW_TOKENS: Final = 8
LEAK: Final = 0.003
"""Share of what other tokens change in their own row: BLOOM's, the least of those that leak, is 0.005. Where rows are kept apart nothing at all
reaches the next one, with experts rounding errors of 3e-7 in float32."""


class PackedCollator:
    """Batches of shape (sequences, tokens) with `input_ids`, `labels` and `position_ids`, and no attention mask.

    TRL joins all sequences of a batch to a single one, which is what flash attention takes. The trainer computes attention by SDPA, whose mask
    of joined sequences would have the square of all tokens: 512 MiB in bfloat16 for 8 sequences of 2,048, instead of 64.
    """

    def __init__(self, collator: Any) -> None:
        self._collator = collator
        collator.return_position_ids = True  # of its column seq_lengths

    def __call__(self, sequences: list[dict[str, Any]]) -> dict[str, Any]:
        """Return the batch; every padding token is a row of its own, at position 0."""
        batch = dict(self._collator(sequences))
        del batch["attention_mask"]
        return batch


def real_tokens(position_ids: torch.Tensor) -> int:
    """Return how many tokens of a packed batch are no padding: rows have two tokens or more, so that position 1 follows their position 0."""
    following = torch.nn.functional.pad(position_ids[:, 1:], (0, 1))
    return int(((position_ids > 0) | (following == 1)).sum())


def check_isolation(model: Any, vocabulary: int) -> None:
    """Prove that a row's logits do not depend on the row before it in its sequence. Collective with sharded models.

    Raises:
        TrainerFailure: They do.
    """
    leaked, own = leak(model, vocabulary)
    if not leaked <= LEAK * own:
        raise TrainerFailure(
            ExitCode.BAD_SPEC,
            "training.packing: this model does not keep the rows of a packed sequence apart (another row before it changes the logits of a row "
            f"by up to {leaked:.2g}); set training.packing: none",
        )


def leak(model: Any, vocabulary: int) -> tuple[float, float]:
    """Return by how much other tokens in one row change the logits of the next row in its sequence, and their own; at most."""
    device = next(model.parameters()).device
    count = min(vocabulary, 256)
    rows = torch.arange(3 * ROW_TOKENS, device=device).view(3, ROW_TOKENS) * 7 % count
    tokens = torch.stack([torch.cat([rows[0], rows[2]]), torch.cat([rows[1], rows[2]])])
    positions = torch.arange(ROW_TOKENS, device=device).repeat(2).expand(2, -1)
    was_training = model.training
    model.eval()
    with torch.no_grad():
        logits = model(input_ids=tokens, position_ids=positions, use_cache=False).logits.float()
    model.train(was_training)
    change = (logits[0] - logits[1]).abs()
    return float(change[ROW_TOKENS:].max()), float(change[:ROW_TOKENS].max())
