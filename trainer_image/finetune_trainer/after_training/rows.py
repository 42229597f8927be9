"""The rows of an evaluation: prompts with the answers that they should get, and whole texts with labels for the loss."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Final, NamedTuple

from finetune_operator.api.datasets import WeightedDataset
from finetune_operator.api.plan import AttemptFile
from finetune_trainer.dataset import EncodedOfRow, encoded_rows
from finetune_trainer.encoding import IGNORED
from finetune_trainer.inputs import model_source
from finetune_trainer.objectives.recipe import EncodedRow
from finetune_trainer.rows import Conversation, Preference, PromptCompletion, RowValue, Tools, Turns
from finetune_trainer.storage import open_storage
from finetune_trainer.tokenizer_files import TokenizerFiles, read_tokenizer

_SEPARATOR: Final = "\n"


class Question(NamedTuple):
    """What a model is asked, in tokens and in words, and the answer of the row."""

    prompt: tuple[int, ...]
    reference: str
    asked: str


class Passage(NamedTuple):
    """A text of which the loss is measured, with the labels of training."""

    tokens: tuple[int, ...]
    labels: tuple[int, ...]


class JudgedRows(NamedTuple):
    """What the models are judged by."""

    rows: int
    questions: tuple[Question, ...]
    """Of the rows that have an answer in words."""
    passages: tuple[Passage, ...]


def judged_rows(attempt: AttemptFile) -> JudgedRows:
    """Return the first `evaluation.maxRows` evaluation rows. Those that follow are not read."""
    chosen = list(islice(_evaluation_rows(attempt), attempt.spec.evaluation.max_rows))
    source = model_source(attempt)
    files = read_tokenizer(open_storage(source.uri, revision=source.revision), source.chat_template)
    longest = attempt.plan.max_length
    asked = [question_of(each.value, files, longest) for each in chosen] if attempt.spec.evaluation.generates else []
    questions = tuple(question for question in asked if question is not None)
    return JudgedRows(len(chosen), questions, tuple(passage_of(each.row) for each in chosen))


def _evaluation_rows(attempt: AttemptFile) -> Iterator[EncodedOfRow]:
    """Yield rows of all data sets by turns: the first so many are some of each."""
    waiting = deque(_evaluation_rows_of(attempt, dataset) for dataset in attempt.spec.all_datasets if dataset.evaluates)
    while waiting:
        rows = waiting.popleft()
        for row in islice(rows, 1):
            yield row
            waiting.append(rows)


def _evaluation_rows_of(attempt: AttemptFile, dataset: WeightedDataset) -> Iterator[EncodedOfRow]:
    if dataset.evaluation is not None:
        return encoded_rows(attempt, dataset, dataset.evaluation.uri)
    return (each for each in encoded_rows(attempt, dataset, dataset.uri) if each.is_evaluated)


def passage_of(row: EncodedRow) -> Passage:
    """Return the tokens and labels of an encoded row; of a pair those of the prompt with the chosen answer."""
    if "labels" in row:
        return Passage(tuple(row["input_ids"]), tuple(row["labels"]))
    prompt, answer = tuple(row["prompt_ids"]), tuple(row["chosen_ids"])
    return Passage(prompt + answer, (IGNORED,) * len(prompt) + answer)


def question_of(value: RowValue, files: TokenizerFiles, longest: int) -> Question | None:
    """Return what a row asks and its answer, of a conversation the last one; None where there is none in words.

    Prompts are cut to `longest` tokens on the left: what the answer follows stays.
    """
    match value:
        case Conversation():
            prompt: str | Turns = value.messages[:-1]
            reference, tools = value.messages[-1].content, value.tools
        case PromptCompletion():
            prompt, reference, tools = value.prompt, value.completion, None
        case Preference():
            prompt, reference, tools = value.prompt, _words_of(value.chosen), value.tools
        case _:
            return None
    if not reference.strip():
        return None
    tokens = _prompt_tokens(prompt, tools, files)
    return Question(tuple(tokens[-longest:]), reference.strip(), _told(prompt)) if tokens else None


def _told(prompt: str | Turns) -> str:
    """Return a prompt for those who know nothing of chat templates."""
    if isinstance(prompt, str):
        return prompt
    return _SEPARATOR.join(f"{message.role}: {message.content}" for message in prompt)


def _words_of(answer: str | Turns) -> str:
    return answer if isinstance(answer, str) else _SEPARATOR.join(message.content for message in answer)


def _prompt_tokens(prompt: str | Turns, tools: Tools | None, files: TokenizerFiles) -> Sequence[int]:
    if isinstance(prompt, str):
        return list(files.tokenizer.encode(prompt).ids)
    if files.template is None:  # rows of turns are not accepted without one
        raise AssertionError("turns have a template")
    text = files.template.render(prompt, tools=tools, add_generation_prompt=True)
    return list(files.tokenizer.encode(text, add_special_tokens=False).ids)
