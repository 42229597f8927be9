"""Builders for tests of objectives that learn from pairs: rows whose order can be learned, attempts on them, and what others make of the same."""

from __future__ import annotations

import json
import random
from itertools import product
from pathlib import Path
from typing import Any, Final

from finetune_operator.api.inspection import ScoreRange
from finetune_operator.api.plan import AttemptFile, Plan
from finetune_trainer.testing_encoders import encoder_attempt, text_rows

_WORDS: Final = ("ba", "de", "fi", "go", "ku", "la", "mo", "ne", "pi", "ro", "su", "ta", "ve", "wi", "xo", "ye")
_TOPICS: Final = tuple(f"{first}{second}" for first, second in product(_WORDS, _WORDS))
_AGREEMENT: Final = {"praise": 1.0, "doubt": 0.5, "blame": 0.0}


def scored_rows(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Return pairs of opinions with scores from 0 to 5: how far they agree.

    An opinion is one word: mean vectors of whole sentences are mostly of the words that all have, and whether a few steps
    lead out of that is a matter of rounding (Spearman 0.33 to 0.90 of held-out rows by the seed; of single words 0.87 to 0.94).
    """
    texts = text_rows(2 * count, seed)
    return [
        {
            "sentence1": first["text"].split()[-1],
            "sentence2": second["text"].split()[-1],
            "score": 5 * (1 - abs(_AGREEMENT[first["label"]] - _AGREEMENT[second["label"]])),
        }
        for first, second in zip(texts[::2], texts[1::2], strict=True)
    ]


def judged_pair_rows(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Return questions and texts with scores from 0 to 1: how far the text is the answer yes. At most 256.

    Every text is about something else, so that what is learned is the opinion: of the few subjects of `text_rows` whole texts
    were learned by heart, and of six seeds two put held-out ones wrong.
    """
    source = random.Random(seed)  # noqa: S311 - examples, not secrets
    topics = source.sample(_TOPICS, count)
    return [
        {
            "sentence1": "is it any good ?",
            "sentence2": f"{topic} was {row['text'].split()[-1]}",
            "score": _AGREEMENT[row["label"]],
        }
        for topic, row in zip(topics, text_rows(count, seed), strict=True)
    ]


def pair_rows(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Return questions with the answers that belong to them: about the same thing, in other words. At most 256.

    No two are about the same: equal rows are held out together, and the right answer of one of them would be that of the others too.
    """
    source = random.Random(seed)  # noqa: S311 - examples, not secrets
    chosen = source.sample(_TOPICS, count)
    return [{"anchor": f"who knows {topic} ?", "positive": f"we told you of {topic} before"} for topic in chosen]


def triplet_rows(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Return the same with an answer to another question."""
    source = random.Random(seed)  # noqa: S311 - examples, not secrets
    rows = []
    for row in pair_rows(count, seed):
        others = [topic for topic in _TOPICS if topic not in row["positive"]]
        rows.append({**row, "negative": f"we told you of {source.choice(others)} before"})
    return rows


ROWS: Final = {"scored-pair": scored_rows, "pair": pair_rows, "triplet": triplet_rows}


def all_texts() -> list[str]:
    """Return what a tokenizer for these rows is trained on."""
    return [str(text) for make in ROWS.values() for row in make(200) for text in row.values()]


def pair_attempt(
    model: Path, data: Path, rows: list[dict[str, Any]], output: Path, *, layout: str, plan: Plan, **spec: Any
) -> AttemptFile:
    """Return the file of an attempt; `rows` are those of the file `data`."""
    attempt = encoder_attempt(model, data, rows, output, plan=plan, **spec)
    facts = attempt.inspection
    scores = [row["score"] for row in rows if "score" in row]
    found = ScoreRange(minimum=min(scores), maximum=max(scores)) if scores else None
    dataset = facts.dataset.model_copy(update={"format": layout, "scores": found, "labels": {}})
    return attempt.model_copy(update={"inspection": facts.model_copy(update={"dataset": dataset})})


def plain_losses(plan: Path, model: Path) -> list[float]:
    """Return the losses of sentence-transformers' own trainer by the settings of an attempt with rows of pairs; only the order of rows is ours."""
    import sentence_transformers
    from datasets import Dataset
    from sentence_transformers.sentence_transformer import losses, modules
    from transformers import TrainerCallback

    from finetune_trainer.arguments import training_arguments
    from finetune_trainer.attempt import read_attempt
    from finetune_trainer.epoch_order import EpochOrder

    attempt = read_attempt(plan)
    lines = Path(attempt.spec.data_uri.removeprefix("file://")).read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    arguments = training_arguments(attempt, plan.parent / "plain") | {
        "report_to": "none",
        "dataloader_pin_memory": False,
    }
    order = list(EpochOrder(len(rows), attempt.plan.global_batch_size, attempt.spec.training.seed))
    transformer = modules.Transformer(str(model))
    network = sentence_transformers.SentenceTransformer(
        modules=[transformer, modules.Pooling(transformer.get_embedding_dimension())], device="cpu"
    )

    class InOrder(sentence_transformers.SentenceTransformerTrainer):  # type: ignore[misc]
        def get_batch_sampler(self, *_: Any, **__: Any) -> Any:
            size = attempt.plan.global_batch_size
            return [order[first : first + size] for first in range(0, len(order), size)]

    found: list[float] = []

    class Losses(TrainerCallback):  # type: ignore[misc]
        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
            found.extend([logs["loss"]] if "loss" in logs else [])

    InOrder(
        model=network,
        args=sentence_transformers.SentenceTransformerTrainingArguments(**arguments),
        train_dataset=Dataset.from_list(rows),
        loss=losses.MultipleNegativesRankingLoss(network),
        callbacks=[Losses()],
    ).train()
    return found


def plain_scores(plan: Path, model: Path) -> list[float]:
    """Return the losses of sentence-transformers' own trainer of cross-encoders by the settings of an attempt; only the order of rows is ours."""
    import transformers
    from datasets import Dataset
    from sentence_transformers import CrossEncoder
    from sentence_transformers.cross_encoder import CrossEncoderTrainer, CrossEncoderTrainingArguments

    from finetune_trainer.arguments import training_arguments
    from finetune_trainer.attempt import read_attempt
    from finetune_trainer.epoch_order import EpochOrder

    attempt = read_attempt(plan)
    lines = Path(attempt.spec.data_uri.removeprefix("file://")).read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    arguments = training_arguments(attempt, plan.parent / "plain") | {"report_to": "none"}
    order = list(EpochOrder(len(rows), attempt.plan.global_batch_size, attempt.spec.training.seed))
    transformers.set_seed(attempt.spec.training.seed)
    network = CrossEncoder(str(model), num_labels=1, device="cpu")

    class InOrder(CrossEncoderTrainer):  # type: ignore[misc]
        def get_batch_sampler(self, *_: Any, **__: Any) -> Any:
            size = attempt.plan.global_batch_size
            return [order[first : first + size] for first in range(0, len(order), size)]

    trainer = InOrder(
        model=network, args=CrossEncoderTrainingArguments(**arguments), train_dataset=Dataset.from_list(rows)
    )
    trainer.train()
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def published_scores(folder: Path, pairs: list[list[str]]) -> list[float]:
    """Return the score of each pair of texts by a published model as its users load it."""
    from sentence_transformers import CrossEncoder

    found: list[float] = CrossEncoder(str(folder), device="cpu").predict([tuple(pair) for pair in pairs]).tolist()
    return found


def published_cosines(folder: Path, pairs: list[list[str]]) -> list[float]:
    """Return the cosine of each pair of texts by a published model as its users load it."""
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(folder), device="cpu")
    vectors = [model.encode([pair[side] for pair in pairs], convert_to_tensor=True) for side in (0, 1)]
    found: list[float] = model.similarity_pairwise(*vectors).tolist()
    return found


def plain_duplicates(model: Path, texts: list[str], threshold: float) -> dict[str, Any]:
    """Return which texts are like an earlier one that stayed, by sentence-transformers alone, and how near to the threshold any pair comes."""
    import numpy as np
    from sentence_transformers import SentenceTransformer

    vectors = SentenceTransformer(str(model), device="cpu").encode(texts).astype(np.float64)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    cosines = vectors @ vectors.T
    stays: list[int] = []
    for index in range(len(texts)):
        if not (cosines[index, stays] >= threshold).any():
            stays.append(index)
    left_out = [index for index in range(len(texts)) if index not in stays]
    return {"leftOut": left_out, "margin": float(abs(cosines - threshold).min())}
