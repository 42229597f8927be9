"""What inspect renders and counts without transformers and TRL is what these produce; the one slow import of this folder (about 15 s)."""

import json
from pathlib import Path
from typing import Any

import pytest

from finetune_operator.api.layouts import OBJECTIVE_LAYOUTS, Layout
from finetune_operator.api.spec import Dataset
from finetune_trainer.chat_template import ChatTemplate, TemplateRefused
from finetune_trainer.file_formats.lines import read_lines
from finetune_trainer.inspect.survey import Limits, survey_rows
from finetune_trainer.rendering import read_rendered_rows
from finetune_trainer.rows import Conversation, Message, Preference, PromptCompletion, RowLayout, RowValue, convert
from finetune_trainer.storage import open_storage
from finetune_trainer.tokenizer_files import read_tokenizer

CHATML = (
    "{% if messages[0]['role'] != 'system' %}{{ '<|im_start|>system\\nBe kind.<|im_end|>\\n' }}{% endif %}"
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
BRACKETS = """
{%- if messages[0]["role"] == "system" %}
    {%- set system = messages[0]["content"] %}
    {%- set rest = messages[1:] %}
{%- else %}
    {%- set rest = messages %}
{%- endif %}
{{- bos_token }}
{%- for message in rest %}
    {%- if (message["role"] == "user") != (loop.index0 % 2 == 0) %}
        {{- raise_exception("turns must alternate") }}
    {%- endif %}
    {%- if message["role"] == "user" %}
        {%- if loop.last or system is defined and loop.first %}{{- "[INST] " + (system | default("")) + "\\n\\n" }}{% else %}[INST]{% endif %}
        {{- " " + message["content"] | trim + " [/INST]" }}
    {%- else %}
        {%- generation %}{{ " " + message["content"] | trim + eos_token }}{% endgeneration %}
    {%- endif %}
{%- endfor %}
"""
HEADERS = (
    "{% set ns = namespace(turns=0) %}{% for m in messages %}{% set ns.turns = ns.turns + 1 %}"
    "{{ '<|start|>' + m.role + '<|end|>\n\n' + m.content | trim }}{{ {'n': ns.turns, 'é': m.role} | tojson }}"
    "{% if loop.first %}{% continue %}{% endif %}{% endfor %}"
)
ASKED, ANSWERED, OTHERWISE = (
    {"role": role, "content": text} for role, text in (("user", "Sky?"), ("assistant", "Blue."), ("assistant", "Red."))
)
TOKENS = {"bos_token": "<s>", "eos_token": "</s>"}
CHATS = (
    (Message("user", "How many?"), Message("assistant", "Seven.")),
    (
        Message("system", "Be brief. "),
        Message("user", " <b>a & b</b> é\n"),
        Message("assistant", "x "),
        Message("user", "y"),
        Message("assistant", "z"),
    ),
)


@pytest.mark.parametrize("source", [CHATML, BRACKETS, HEADERS], ids=["chatml", "brackets", "headers"])
@pytest.mark.parametrize("messages", CHATS, ids=["short", "long"])
@pytest.mark.parametrize("prompt", [False, True])
def test_a_template_renders_as_in_transformers(source: str, messages: tuple[Message, ...], prompt: bool) -> None:
    from transformers.utils.chat_template_utils import render_jinja_template

    chat = [message.to_dict() for message in messages]
    theirs, _ = render_jinja_template(
        conversations=[chat], chat_template=source, add_generation_prompt=prompt, **TOKENS
    )
    ours = ChatTemplate(source, TOKENS).render(messages, add_generation_prompt=prompt)
    assert ours == theirs[0]


def test_marked_answers_stand_where_transformers_sees_them() -> None:
    from transformers.utils.chat_template_utils import render_jinja_template

    chat = [message.to_dict() for message in CHATS[1]]
    text, spans = render_jinja_template(
        conversations=[chat], chat_template=BRACKETS, return_assistant_tokens_mask=True, **TOKENS
    )
    assert ChatTemplate(BRACKETS, TOKENS).render_with_spans(CHATS[1]) == (text[0], spans[0])


def test_a_refusal_repeats_the_templates_own_words_only() -> None:
    messages = (Message("user", "SECRETWORD"), Message("user", "SECRETWORD"))
    with pytest.raises(TemplateRefused, match="refuses the conversation: turns must alternate"):
        ChatTemplate(BRACKETS, TOKENS).render(messages)
    leaky = "{{ raise_exception('bad: ' + messages[0].content) }}"
    with pytest.raises(TemplateRefused) as refusal:
        ChatTemplate(leaky, TOKENS).render(messages)
    assert "SECRETWORD" not in str(refusal.value)


def test_a_template_cannot_leave_the_sandbox() -> None:
    with pytest.raises(TemplateRefused):
        ChatTemplate("{{ ''.__class__.__mro__[1].__subclasses__()[0]() }}", {}).render(CHATS[0])


@pytest.mark.parametrize(
    ("chosen", "rejected"),
    [
        ("The sky is blue.", "The sky is green."),
        ("Yes", "No"),
        ("one two three", "one two four"),
        ([ASKED, ANSWERED], [ASKED, OTHERWISE]),
        ([ASKED, ANSWERED, ASKED, ANSWERED], [ASKED, ANSWERED, ASKED, OTHERWISE]),
    ],
)
def test_the_common_prompt_of_two_answers_is_the_one_that_trl_extracts(chosen: Any, rejected: Any) -> None:
    from trl.data_utils import extract_prompt

    value = convert({"chosen": chosen, "rejected": rejected}, RowLayout.of(Layout.PREFERENCE), has_chat_template=True)
    assert isinstance(value, Preference)
    ours = {
        name: part if isinstance(part, str) else [turn.to_dict() for turn in part]
        for name, part in zip(("prompt", "chosen", "rejected"), value[:3], strict=True)
    }
    assert ours == extract_prompt({"chosen": chosen, "rejected": rejected})


@pytest.mark.filterwarnings("ignore:`gradient_checkpointing` is deprecated:FutureWarning")  # TRL sets it itself
@pytest.mark.parametrize("layout", ["messages", "prompt-completion", "alpaca", "sharegpt"])
def test_lengths_and_kept_rows_are_those_of_trl(model: Path, tmp_path: Path, layout: str) -> None:
    rows: list[dict[str, Any]] = []
    for n in range(30):
        question, answer = f"What is {n} times {n}? " + "Think. " * n, f"{n * n} " * (1 + n % 3)
        rows.append(
            {
                "messages": {
                    "messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
                },
                "prompt-completion": {"prompt": question, "completion": answer + ("<|im_end|>" if n % 2 else "")},
                "sharegpt": {
                    "conversations": [{"from": "human", "value": question}, {"from": "gpt", "value": answer * 3}],
                    "system": "Think." if n % 2 else None,
                },
                "alpaca": {"instruction": question, "input": "n" if n % 2 else "", "output": answer},
            }[layout]
        )
    content = "".join(json.dumps(row) + "\n" for row in rows).encode()
    dataset = Dataset(uri="s3://b/x.jsonl")
    tokenizer = read_tokenizer(open_storage(f"file://{model}"))
    rendered = list(read_rendered_rows(read_lines("x", [content]), dataset, OBJECTIVE_LAYOUTS["sft"], tokenizer)[1])
    limit = 100
    survey = survey_rows(iter(rendered), tokenizer, Limits(limit, "completions"))
    theirs = lengths_by_trl(model, [as_trl_takes_it(row.value) for row, _ in rendered if row.value is not None], limit)
    assert survey.rows == len(theirs)
    assert sorted(min(length, limit) for length in survey.lengths.elements()) == sorted(theirs)
    assert any(length == limit for length in theirs), "the case must have rows that are cut"
    assert all(isinstance(row.value, Conversation) == (layout != "prompt-completion") for row, _ in rendered)


def as_trl_takes_it(value: RowValue) -> dict[str, object]:
    """Return what TRL's SFTTrainer takes for a row."""
    if isinstance(value, Conversation):
        return {"messages": [{"role": message.role, "content": message.content} for message in value.messages]}
    assert isinstance(value, PromptCompletion)
    return {"prompt": value.prompt, "completion": value.completion}


def lengths_by_trl(model: Path, rows: list[dict[str, object]], limit: int) -> list[int]:
    """Return the length of every row that SFTTrainer keeps, after its truncation."""
    from accelerate import PartialState
    from datasets import Dataset as Table
    from transformers import AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    PartialState(cpu=True)
    tokenizer = AutoTokenizer.from_pretrained(model)
    arguments = SFTConfig(
        output_dir=str(model / "unused"),
        max_length=limit,
        use_cpu=True,
        bf16=False,
        report_to=[],
        shuffle_dataset=False,
    )
    trainer = SFTTrainer.__new__(SFTTrainer)  # only its preparation of rows: no model is needed for that
    trainer._tokenizer = tokenizer
    trainer.chat_template = None
    trainer.completion_only_loss = True
    arguments.assistant_only_loss = "messages" in rows[0]
    prepared = trainer._prepare_dataset(Table.from_list(rows), tokenizer, arguments, False, None, "train")
    return [len(tokens) for tokens in prepared["input_ids"]]
