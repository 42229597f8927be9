"""Rows with a prompt whose answers are compared, judged or generated: preference, KTO, prompt."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from finetune_trainer.rows.kinds import kind_of, text_problem
from finetune_trainer.rows.layout import RowLayout
from finetune_trainer.rows.turns import ANSWER, conversation, prompt, tools
from finetune_trainer.rows.values import JudgedCompletion, Preference, Prompt, Tools, Turns

_TRUTHS: Final[Mapping[str, bool]] = {"true": True, "1": True, "false": False, "0": False}


def preference(row: Mapping[str, object], layout: RowLayout) -> Preference | str:
    """Return two answers with their prompt, which has a column of its own or is what both begin with."""
    columns = layout.columns
    chosen, rejected = row[columns["chosen"]], row[columns["rejected"]]
    if type(chosen) is not type(rejected):
        return (
            f"column {columns['chosen']} is {kind_of(chosen)} and column {columns['rejected']} is {kind_of(rejected)}"
        )
    question = row.get(columns["prompt"])
    if isinstance(chosen, list) and not isinstance(question, list):
        return _implied_turns(row, layout)  # some data sets repeat the question as text beside the conversations
    if question is None:
        return _implied_text(chosen, rejected, layout)
    answers = _answers(row, layout, ("chosen", "rejected"))
    if isinstance(answers, str):
        return answers
    given, (chosen, rejected), known = answers
    return _compared(given, chosen, rejected, known, layout)


def _compared(
    given: str | Turns, chosen: str | Turns, rejected: str | Turns, known: Tools | None, layout: RowLayout
) -> Preference | str:
    if chosen == rejected:
        return f"columns {layout.columns['chosen']} and {layout.columns['rejected']} are equal"
    return Preference(given, chosen, rejected, known)


def _implied_turns(row: Mapping[str, object], layout: RowLayout) -> Preference | str:
    columns = layout.columns
    chosen = conversation(row[columns["chosen"]], columns["chosen"])
    rejected = conversation(row[columns["rejected"]], columns["rejected"])
    known = tools(row.get(columns["tools"]), columns["tools"])
    for problem in (chosen, rejected, known):
        if isinstance(problem, str):
            return problem
    assert not isinstance(chosen, str) and not isinstance(rejected, str) and not isinstance(known, str)  # noqa: PT018, S101
    common = _common(chosen, rejected)
    if common == len(chosen) == len(rejected):
        return f"columns {columns['chosen']} and {columns['rejected']} are equal"
    while common and chosen[common - 1].role not in ("user", "tool"):
        common -= 1
    if common == 0:
        return f"columns {columns['chosen']} and {columns['rejected']} do not begin with the same prompt"
    if {len(chosen), len(rejected)} & {common}:
        return f"column {columns['chosen']} or {columns['rejected']} has no answer after the common prompt"
    return Preference(chosen[:common], chosen[common:], rejected[common:], known)


def _implied_text(chosen: object, rejected: object, layout: RowLayout) -> Preference | str:
    columns = layout.columns
    problem = text_problem(chosen, columns["chosen"]) or text_problem(rejected, columns["rejected"])
    if problem is not None:
        return problem
    chosen, rejected = str(chosen), str(rejected)
    common = _common(chosen, rejected)
    if common and chosen[common - 1] == " ":
        common -= 1  # tokens of words begin with their space, so that it belongs to the answers (as in TRL 1.16)
    return _compared(chosen[:common], chosen[common:], rejected[common:], None, layout)


def _common(first: str | Turns, second: str | Turns) -> int:
    """Return how many characters or turns both begin with."""
    shorter = min(len(first), len(second))
    return next((index for index in range(shorter) if first[index] != second[index]), shorter)


def judged(row: Mapping[str, object], layout: RowLayout) -> JudgedCompletion | str:
    """Return a prompt, its completion and whether that is wanted."""
    column = layout.columns["label"]
    label = row[column]
    if isinstance(label, int | str):  # CSV has only text
        label = _TRUTHS.get(str(label).strip().lower(), label)
    if not isinstance(label, bool):
        return f"column {column} is {kind_of(label)}, not true or false (or 1 or 0)"
    answers = _answers(row, layout, ("completion",))
    if isinstance(answers, str):
        return answers
    given, (completion,), known = answers
    return JudgedCompletion(given, completion, label, known)


def only_prompt(row: Mapping[str, object], layout: RowLayout) -> Prompt | str:
    """Return a prompt and the row's further columns."""
    column, tool_column = layout.columns["prompt"], layout.columns["tools"]
    found = row[column]
    question = prompt(found, column) if isinstance(found, list) else None
    if isinstance(question, str):
        return question
    if question is None and (problem := text_problem(found, column)) is not None:
        return problem
    known = tools(row.get(tool_column), tool_column)
    if isinstance(known, str):
        return known
    others = {name: value for name, value in row.items() if name not in (column, tool_column)}
    return Prompt(str(found) if question is None else question, others, known)


def _answers(
    row: Mapping[str, object], layout: RowLayout, names: tuple[str, ...]
) -> tuple[str | Turns, list[str | Turns], Tools | None] | str:
    """Return the prompt, its answers and the tools, all plain text or all turns; or the reason why there are none."""
    question_column = layout.columns["prompt"]
    found = row[question_column]
    answers: list[str | Turns] = []
    if not isinstance(found, list):
        for column in (question_column, *(layout.columns[name] for name in names)):
            if (problem := text_problem(row[column], column)) is not None:
                return problem
            answers.append(str(row[column]))
        return answers[0], answers[1:], None
    question = prompt(found, question_column)
    if isinstance(question, str):
        return question
    known = tools(row.get(layout.columns["tools"]), layout.columns["tools"])
    if isinstance(known, str):
        return known
    for name in names:
        column = layout.columns[name]
        answer = conversation(row[column], column, expected=ANSWER)
        if isinstance(answer, str):
            return f"column {column}: {answer}"
        answers.append(answer)
    return question, answers, known
