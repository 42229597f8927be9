"""What was published, loaded as its users load it: sentence-transformers must give the vectors that were trained."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any, Final

import torch
from sentence_transformers import SentenceTransformer
from transformers import AutoTokenizer

from finetune_operator.api.exit_codes import ExitCode
from finetune_operator.api.plan import AttemptFile
from finetune_trainer.failures import TrainerFailure
from finetune_trainer.modeling import load_base_model
from finetune_trainer.objectives.embedding import POOLING_NAMES, pooling_of
from finetune_trainer.objectives.embedding_trainer import text_vectors

PROBE_TEXTS: Final = ("The answer is", "Which question has this for an answer, and why is it asked?")
"""Of different lengths, so that one is padded."""
TOLERANCE: Final = {"float32": 1e-4, "bfloat16": 0.02}
"""Largest allowed difference of a cosine from 1, by the numbers of the weights."""


def check_vectors(attempt: AttemptFile, folder: Path, dtype: str) -> None:
    """Raise a TrainerFailure where SentenceTransformer(folder) gives other vectors than the trainer's own modules."""
    expected = _own_vectors(attempt, folder, dtype)
    gc.collect()
    found = SentenceTransformer(str(folder), device="cpu", local_files_only=True).encode(
        list(PROBE_TEXTS), convert_to_tensor=True, show_progress_bar=False
    )
    cosines = torch.cosine_similarity(found.float(), expected)
    if not bool((cosines > 1 - TOLERANCE[dtype]).all()):  # also where one is not a number
        raise TrainerFailure(
            ExitCode.BUG,
            f"SentenceTransformer gives other vectors than those that were trained (cosines {cosines.tolist()}); nothing was published",
        )


def _own_vectors(attempt: AttemptFile, folder: Path, dtype: str) -> Any:
    model = load_base_model(attempt, folder, dtype=dtype, quantized=False).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    vectors = text_vectors(model, model.config.hidden_size, POOLING_NAMES[pooling_of(attempt)])
    made = []
    with torch.no_grad():
        for text in PROBE_TEXTS:  # one by one: nothing is padded here
            made.append(vectors(dict(tokenizer(text, return_tensors="pt")))["sentence_embedding"].float())
    return torch.cat(made)
