"""How many answers follow from the rows' answers, by a classifier that was trained on natural language inference."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from finetune_operator.api.evaluators import ENTAILMENT_WORK_BYTES
from finetune_operator.api.exit_codes import ExitCode
from finetune_trainer.entailment_model import entailment_class
from finetune_trainer.failures import TrainerFailure

ROWS_TOGETHER = 16


def entailed_share(
    folder: Path, references: Sequence[str], answers: Sequence[str], *, count: Callable[[int], None] = lambda rows: None
) -> float:
    """Return the share of answers (hypothesis) for which, after the reference (premise), the likeliest class is entailment.

    The model runs in its own precision on the first GPU where it has room beside the one that answered, else on the CPU;
    the longer text of a pair is cut. `count` hears of every batch's rows.
    """
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    model = AutoModelForSequenceClassification.from_pretrained(folder, local_files_only=True).eval()
    wanted = entailment_class(model.config.to_dict())
    if wanted is None:
        raise TrainerFailure(ExitCode.BAD_SPEC, "evaluation.entailment.uri: the model has no class entailment any more")
    device = _device(torch, model)
    model.to(device)
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    longest = min(tokenizer.model_max_length, getattr(model.config, "max_position_embeddings", 512) - 2)
    follows = 0
    for first in range(0, len(answers), ROWS_TOGETHER):
        pairs = (list(texts[first : first + ROWS_TOGETHER]) for texts in (references, answers))
        batch = tokenizer(*pairs, truncation=True, max_length=longest, padding=True, return_tensors="pt")
        with torch.no_grad():
            follows += int((model(**batch.to(device)).logits.argmax(-1) == wanted).sum())
        count(len(answers[first : first + ROWS_TOGETHER]))
    return follows / len(answers)


def _device(torch: Any, model: Any) -> str:
    if not torch.cuda.is_available():
        return "cpu"
    torch.cuda.empty_cache()  # the answers' blocks are free by now
    held = sum(each.numel() * each.element_size() for each in model.parameters())
    return "cuda:0" if held + ENTAILMENT_WORK_BYTES < torch.cuda.mem_get_info(0)[0] else "cpu"
