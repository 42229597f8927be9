"""What was published, loaded as its users load it: sentence-transformers must give the scores that were trained."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Final

import torch
from sentence_transformers import CrossEncoder
from transformers import AutoTokenizer

from finetune_operator.api.exit_codes import ExitCode
from finetune_operator.api.plan import AttemptFile
from finetune_trainer.failures import TrainerFailure
from finetune_trainer.modeling import load_base_model

PROBE_PAIRS: Final = (
    ("The answer is", "four"),
    ("Which question has this for an answer?", "The answer is seventeen, as was said."),
)
"""Of different lengths, so that one is padded."""
TOLERANCE: Final = {"float32": 1e-4, "bfloat16": 0.02}
"""Largest allowed difference of a probability, by the numbers of the weights."""


def check_scores(attempt: AttemptFile, folder: Path, dtype: str) -> None:
    """Raise a TrainerFailure where CrossEncoder(folder) gives other scores than the trainer's own model."""
    model = load_base_model(attempt, folder, dtype=dtype, quantized=False).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    with torch.no_grad():
        expected = torch.cat(
            [model(**tokenizer(*pair, return_tensors="pt")).logits.float().view(-1).sigmoid() for pair in PROBE_PAIRS]
        )
    del model
    gc.collect()
    found = CrossEncoder(str(folder), device="cpu", local_files_only=True).predict(
        list(PROBE_PAIRS), convert_to_tensor=True, show_progress_bar=False
    )
    differences = (found.float() - expected).abs()
    if not bool((differences <= TOLERANCE[dtype]).all()):  # also where one is not a number
        raise TrainerFailure(
            ExitCode.BUG,
            f"CrossEncoder gives other scores than those that were trained (differences {differences.tolist()}); nothing was published",
        )
