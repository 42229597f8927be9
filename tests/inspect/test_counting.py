"""What the inspection counts of rows of every kind: lengths by side, labels, what is cut; by the code that training encodes with."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest

from finetune_operator.api.layouts import OBJECTIVE_LAYOUTS
from finetune_operator.api.online import OnlinePolicy
from finetune_operator.api.spec import Dataset
from finetune_trainer.chat_template import ChatTemplate
from finetune_trainer.encoding import Encoder
from finetune_trainer.failures import TrainerFailure
from finetune_trainer.file_formats.lines import read_lines
from finetune_trainer.inspect.labels import LABELS_LIMIT, in_order
from finetune_trainer.inspect.survey import Limits, Survey, survey_rows
from finetune_trainer.rendering import RenderedRow, read_rendered_rows
from finetune_trainer.storage import open_storage
from finetune_trainer.tokenizer_files import TokenizerFiles, read_tokenizer


@pytest.fixture
def tokenizer(model: Path) -> TokenizerFiles:
    return read_tokenizer(open_storage(f"file://{model}"))


def rendered(rows: list[dict[str, Any]], objective: str, tokenizer: TokenizerFiles) -> list[RenderedRow]:
    content = "".join(json.dumps(row) + "\n" for row in rows).encode()
    lines = read_lines("x", [content])
    return list(read_rendered_rows(lines, Dataset(uri="s3://b/x"), OBJECTIVE_LAYOUTS[objective], tokenizer)[1])


def surveyed(rows: list[dict[str, Any]], objective: str, tokenizer: TokenizerFiles, max_length: int = 999) -> Survey:
    return survey_rows(iter(rendered(rows, objective, tokenizer)), tokenizer, Limits(max_length, "completions"))


def test_prompts_that_cannot_be_learned_from_say_why(tokenizer: TokenizerFiles) -> None:
    policy = OnlinePolicy.model_validate({"rewards": [{"verifier": "exact-number"}], "maxCompletionLength": 10})
    rows = [
        {"prompt": "2+2=", "answer": "4"},
        {"prompt": "1+" * 50, "answer": "50"},
        {"prompt": "2+2=", "answer": "many"},
    ]
    limits = Limits(20, "completions", online=policy)

    found = survey_rows(iter(rendered(rows, "grpo", tokenizer)), tokenizer, limits)

    assert found.used == 1
    assert [problem.line for problem in found.problems] == [2, 3]
    assert "no room for an answer of 10 tokens" in found.problems[0].reason
    assert "column answer has nothing to compare" in found.problems[1].reason


def tokens(tokenizer: TokenizerFiles, *texts: str) -> list[int]:
    return [len(tokenizer.tokenizer.encode(text).ids) for text in texts]


def test_a_preference_counts_as_its_longer_answer_with_the_prompt(tokenizer: TokenizerFiles) -> None:
    found = surveyed([{"prompt": "2+2=", "chosen": "4", "rejected": "not four"}], "dpo", tokenizer)
    chosen, rejected = tokens(tokenizer, "2+2=4<|im_end|>", "2+2=not four<|im_end|>")
    assert found.sides == {"chosen": {chosen: 1}, "rejected": {rejected: 1}}
    assert found.lengths == {rejected: 1}


def test_turns_of_a_preference_are_rendered_with_the_answer_after_the_prompt(tokenizer: TokenizerFiles) -> None:
    turn = {"role": "assistant", "content": "4"}
    row = {
        "prompt": [{"role": "user", "content": "2+2?"}],
        "chosen": [turn],
        "rejected": [{**turn, "content": "5"}],
    }
    ((_, texts),) = rendered([row], "dpo", tokenizer)
    assert [text.side for text in texts] == ["chosen", "rejected"]
    assert texts[0].text[texts[0].prompt :] == "4<|im_end|>"
    assert texts[0].text[: texts[0].prompt] == "<|im_start|>user\n2+2?<|im_end|>\n<|im_start|>assistant\n"


def test_an_answer_that_lies_behind_the_cut_is_a_problem_of_its_row(tokenizer: TokenizerFiles) -> None:
    rows = [{"prompt": "2+2= " * 20, "completion": "4", "label": True}]
    found = surveyed(rows, "kto", tokenizer, max_length=20)
    assert found.problems[0].reason == "no token of the answer is within training.maxLength (20)"


@pytest.mark.parametrize(("truncation", "kept"), [("right", 1), ("left", 2)])
def test_rows_that_are_cut_on_either_side_are_counted_as_training_encodes_them(
    tokenizer: TokenizerFiles, truncation: Literal["right", "left"], kept: int
) -> None:
    rows = [{"prompt": "2+2= " * 20, "completion": "4"}, {"prompt": "2+2=", "completion": "4 " * 40}]
    found = rendered(rows, "sft", tokenizer)
    survey = survey_rows(iter(found), tokenizer, Limits(20, "completions", truncation))
    encoder = Encoder(tokenizer, completions_only=True, max_length=20, truncation=truncation)
    encoded = [encoder.encode(row.value, texts[0].text) for row, texts in found if row.value is not None]
    assert survey.rows == survey.truncated == kept == sum(row.is_trainable for row in encoded)


def test_a_template_that_hides_answers_of_later_turns_is_known_though_the_first_rows_have_one(
    tokenizer: TokenizerFiles,
) -> None:
    source = "{% for m in messages %}<|im_start|>{{ m.role }} {{ m.content }}{% endfor %}{{ '' if add_generation_prompt else eos_token }}"
    ends_once = replace(tokenizer, template=ChatTemplate(source, tokenizer.special_tokens))
    talk = [{"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "4"}]
    single = [{"messages": talk}] * 40
    assert surveyed(single, "sft", ends_once).rows == 40
    with pytest.raises(TrainerFailure, match="renders earlier turns differently"):
        surveyed([*single, {"messages": talk * 2}], "sft", ends_once)


def test_labels_are_counted_in_the_order_of_their_numbers(tokenizer: TokenizerFiles) -> None:
    rows = [{"text": "a", "label": label} for label in (10, 2, 10)]
    assert list(in_order(surveyed(rows, "classification", tokenizer).labels).items()) == [("2", 1), ("10", 2)]
    words = [{"tokens": ["Ada", "sleeps"], "tags": ["B-PER", "O"]}, {"tokens": ["x"], "tags": ["O"]}]
    assert list(in_order(surveyed(words, "token-classification", tokenizer).labels).items()) == [("B-PER", 1), ("O", 2)]
    judged = [{"prompt": "x", "completion": "y", "label": label} for label in (True, True, False)]
    assert in_order(surveyed(judged, "kto", tokenizer).labels) == {"false": 1, "true": 2}


def test_more_labels_than_classes_can_be_are_refused_without_naming_them(tokenizer: TokenizerFiles) -> None:
    rows = [{"text": "a", "label": f"SECRET {number}"} for number in range(LABELS_LIMIT + 1)]
    with pytest.raises(TrainerFailure, match="more than 1000 different labels") as refused:
        surveyed(rows, "classification", tokenizer)
    assert "SECRET" not in str(refused.value)


def test_pairs_and_words_are_counted_as_encoders_read_them(tokenizer: TokenizerFiles) -> None:
    pair = surveyed([{"text": "one", "text_pair": "two", "label": 1}], "classification", tokenizer)
    assert pair.lengths == {sum(tokens(tokenizer, "one", "two")): 1}
    scored = surveyed([{"sentence1": "one", "sentence2": "one two", "score": 1}], "embedding", tokenizer)
    first, second = tokens(tokenizer, "one", "one two")
    assert scored.sides == {"first": {first: 1}, "second": {second: 1}}
    words = surveyed([{"tokens": ["one", "two"], "tags": ["O", "O"]}], "token-classification", tokenizer)
    assert words.lengths == {len(tokenizer.tokenizer.encode("one two").ids): 1}
