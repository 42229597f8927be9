"""Which token carries a word's class: the same as transformers' word_ids say, for WordPiece and byte-level BPE, token by token."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from finetune_trainer.encoding import IGNORED
from finetune_trainer.objectives.token_classification import first_pieces
from finetune_trainer.testing import tiny_plan, write_rows
from finetune_trainer.testing_encoders import encoder_attempt, make_tokenizer, word_rows

ROWS = word_rows(64)
SENTENCES = [" ".join(row["tokens"]) for row in ROWS]
WORDS = ["Doménica", "O'Hara", "unbelievably", "St.-Denis", "🦊", "x", "travels", "…", "東京", "naïve."]


@pytest.mark.parametrize("kind", ["bert", "roberta"])
def test_the_first_piece_of_each_word_is_the_one_that_transformers_finds(kind: str) -> None:
    # transformers writes a space before each word that comes alone when it is asked to; here the first word has none.
    tokenizer = make_tokenizer(kind, SENTENCES)
    core = tokenizer._tokenizer
    encoding = core.encode(" ".join(WORDS))
    split = tokenizer(
        [WORDS[0], *(f" {word}" if kind == "roberta" else word for word in WORDS[1:])], is_split_into_words=True
    )
    assert encoding.ids == split["input_ids"]
    of_words = split.word_ids()
    expected = [
        word if word is not None and word != before else None
        for before, word in zip([None, *of_words], of_words, strict=False)
    ]
    found = first_pieces(WORDS, encoding.offsets)
    assert found == expected
    assert [word for word in found if word is not None] == list(range(len(WORDS)))


@pytest.mark.parametrize("kind", ["bert", "roberta"])
@given(words=st.lists(st.text("abcABÉß.-'é🦊東", min_size=1, max_size=9), min_size=1, max_size=8))
def test_every_word_begins_at_most_once_and_in_order(kind: str, words: list[str]) -> None:
    core = CORES[kind]
    found = [word for word in first_pieces(words, core.encode(" ".join(words)).offsets) if word is not None]
    assert found == sorted(set(found))
    assert kind == "bert" or len(found) == len(words)  # byte-level tokenizers leave no character out


CORES = {kind: make_tokenizer(kind, SENTENCES)._tokenizer for kind in ("bert", "roberta")}


def test_labels_stand_at_first_pieces_and_everything_else_is_ignored(tmp_path: Path) -> None:
    from finetune_trainer.dataset import encoded_rows

    model = tmp_path / "model"
    make_tokenizer("bert", SENTENCES).save_pretrained(model)
    for name in ("config.json", "model.safetensors"):
        (model / name).write_text("{}")
    data = write_rows(tmp_path / "rows.jsonl", ROWS[:1])
    plan = tiny_plan(rows=1, max_length=8)
    attempt = encoder_attempt(model, data, ROWS[:1], tmp_path / "out", objective="token-classification", plan=plan)

    (dataset,) = attempt.spec.all_datasets
    (made,) = encoded_rows(attempt, dataset, dataset.uri)
    row = made.row

    tokenizer: Any = PreTrainedTokenizerFast.from_pretrained(model)
    pieces = tokenizer.convert_ids_to_tokens(row["input_ids"])
    names = ["B-LOC", "B-PER", "O"]
    said = {piece: names[label] for piece, label in zip(pieces, row["labels"], strict=True) if label != IGNORED}
    assert len(pieces) <= 8
    assert pieces[-1] == "[SEP]"
    assert all(
        label == IGNORED for piece, label in zip(pieces, row["labels"], strict=True) if piece.startswith(("##", "["))
    )
    assert said["travels"] == "O"
    assert said["from"] == "O"
    assert next(iter(said.values())) == "B-PER"


def test_a_token_over_two_words_leaves_the_second_without_a_class() -> None:
    words = Tokenizer(models.BPE())
    words.pre_tokenizer = pre_tokenizers.Metaspace(split=False)
    trainer = trainers.BpeTrainer(vocab_size=60, show_progress=False)
    words.train_from_iterator(["of the", "of the", "of the"], trainer)
    encoding = words.encode("of the")
    assert first_pieces(["of", "the"], encoding.offsets) == [0, *[None] * (len(encoding.ids) - 1)]
