"""How a model of sentence-transformers pools is read from its folder, and kept; scores of pairs are ranges that something can be learned from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from finetune_operator.api.compatibility import Objective
from finetune_operator.api.embedding import Embedding
from finetune_trainer.failures import TrainerFailure
from finetune_trainer.inspect.survey import Survey
from finetune_trainer.inspect.verdict import check_values
from finetune_trainer.rows import ScoredPair
from finetune_trainer.sentence_pooling import check_pooling, read_pooling
from finetune_trainer.storage import open_storage
from finetune_trainer.testing import tiny_attempt, write_rows


@pytest.mark.parametrize(
    ("config", "pooling"),
    [
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, "cls"),
        ({"embedding_dimension": 8, "pooling_mode": "lasttoken"}, "last-token"),
        ({"pooling_mode_max_tokens": True, "pooling_mode_mean_tokens": True}, "pooling_mode_max_tokens+mean"),
        (None, None),
    ],
)
def test_the_pooling_is_what_the_folder_says(config: Any, pooling: str | None, tmp_path: Path) -> None:
    if config is not None:
        (tmp_path / "1_Pooling").mkdir()
        (tmp_path / "1_Pooling" / "config.json").write_text(json.dumps(config))
    assert read_pooling(open_storage(f"file://{tmp_path}")) == pooling


def test_a_model_with_a_pooling_that_is_not_offered_is_refused_until_another_is_named(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        (tmp_path / "model" / name).write_text("{}")
    data = write_rows(tmp_path / "rows.jsonl", [])
    attempt = tiny_attempt(tmp_path / "model", data, tmp_path / "out", objective="embedding", tuning={"method": "full"})
    facts = attempt.inspection.model.model_copy(update={"pooling": "pooling_mode_max_tokens"})
    with pytest.raises(TrainerFailure, match=r"training\.embedding\.pooling.*mean, cls or last-token"):
        check_pooling(attempt.spec, facts)
    named = attempt.spec.training.model_copy(update={"embedding": Embedding(pooling="mean")})
    check_pooling(attempt.spec.model_copy(update={"training": named}), facts)


def test_pairs_that_all_have_one_score_are_refused() -> None:
    survey = Survey()
    for score in (0.5, 0.5):
        survey.note_row(ScoredPair("a", "b", score), {"first": 1, "second": 1}, 8)
    assert "the same score" in str(check_values(survey, "s3://data/rows.jsonl", Objective.EMBEDDING))
    survey.note_row(ScoredPair("a", "b", -1.0), {"first": 1, "second": 1}, 8)
    assert survey.scores == (-1.0, 0.5)
    assert check_values(survey, "s3://data/rows.jsonl", Objective.EMBEDDING) is None
    assert "shift the scores" in str(check_values(survey, "s3://data/rows.jsonl", Objective.RERANKER))
