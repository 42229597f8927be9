"""Which tokens of a conversation the loss counts, for the templates of well-known models as TRL ships them, and for our own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import trl
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from finetune_operator.api.chat_templates import TEMPLATE_TOKENS
from finetune_trainer.chat_template import ChatTemplate, TemplateRefused
from finetune_trainer.encoding import IGNORED, Encoder
from finetune_trainer.failures import TrainerFailure
from finetune_trainer.named_templates import check_tokens, template_source
from finetune_trainer.rows import Conversation, Message, Tools
from finetune_trainer.tokenizer_files import TokenizerFiles

ENDS = {"bos_token": "<s>", "eos_token": "</s>"}
CALL = {"type": "function", "id": "abcdefghi", "function": {"name": "add", "arguments": {"a": 2, "b": [1, "é"]}}}
TOOLS: Tools = (
    {"type": "function", "function": {"name": "add", "description": "adds", "parameters": {"type": "object"}}},
)
SHORT = (Message("user", "2+2?"), Message("assistant", "4"))
LONG = (
    Message("user", "2+2?"),
    Message("assistant", "It is 4."),
    Message("user", "Sure?\n"),
    Message("assistant", "It is 4."),
)
SYSTEM = (Message("system", "Be brief."), *LONG)
THOUGHT = (
    Message("user", "2+2?"),
    Message("assistant", "<think>\ntwo and two\n</think>\n\n4"),
    Message("user", "3+3?"),
    Message("assistant", "<think>\nthree and three\n</think>\n\n6"),
)
CALLING = (
    Message("user", "2+2?"),
    Message("assistant", "", {"tool_calls": [CALL]}),
    Message("tool", "4", {"tool_call_id": "abcdefghi"}),
    Message("assistant", "It is 4."),
    Message("user", "Thanks"),
    Message("assistant", "Bye"),
)


def shipped(name: str) -> str:
    return Path(trl.__file__).with_name("chat_templates").joinpath(f"{name}.jinja").read_text()


def tokenizer(source: str) -> TokenizerFiles:
    """One token per byte, besides the special ones, so that spans can be read."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = Tokenizer(models.BPE(vocab={letter: number for number, letter in enumerate(alphabet)}, merges=[]))
    words.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    words.decoder = decoders.ByteLevel()
    words.add_special_tokens(
        sorted({*ENDS.values(), *(token for tokens in TEMPLATE_TOKENS.values() for token in tokens)})
    )
    return TokenizerFiles(words, ENDS, ChatTemplate(source, ENDS), ())


def counted(source: str, messages: tuple[Message, ...], tools: Tools | None = None) -> list[str]:
    """Return the stretches of tokens that the loss counts, as text."""
    files = tokenizer(source)
    assert files.template is not None
    value = Conversation(messages, tools)
    encoded = Encoder(files, completions_only=True, max_length=100_000).encode(
        value, files.template.render(messages, tools=tools)
    )
    stretches: list[list[int]] = [[]]
    for label in encoded.labels:
        if label == IGNORED:
            stretches.append([])
        else:
            stretches[-1].append(label)
    return [files.tokenizer.decode(part, skip_special_tokens=False) for part in stretches if part]


def by_transformers(source: str, messages: tuple[Message, ...], tools: Tools | None = None) -> tuple[str, list[str]]:
    """Return the text, and what stands between the marks of the template."""
    from transformers.utils.chat_template_utils import render_jinja_template

    (text,), (spans,) = render_jinja_template(
        conversations=[[message.to_dict() for message in messages]],
        tools=None if tools is None else [dict(tool) for tool in tools],
        chat_template=source,
        return_assistant_tokens_mask=True,
        **ENDS,
    )
    return text, [text[first:last] for first, last in spans]


@pytest.mark.parametrize("name", ["llama3", "gemma"])
@pytest.mark.parametrize("messages", [SHORT, LONG], ids=["short", "long"])
def test_answers_found_by_prefixes_are_those_that_trl_marks(name: str, messages: tuple[Message, ...]) -> None:
    text, answers = by_transformers(shipped(f"{name}_training"), messages)
    assert ChatTemplate(shipped(name), ENDS).render(messages) == text
    assert counted(shipped(name), messages) == answers
    assert len(answers) == sum(message.role == "assistant" for message in messages)


@pytest.mark.parametrize(
    ("name", "messages", "answers"),
    [
        ("llama3", SYSTEM, ["It is 4.<|eot_id|>"] * 2),
        ("qwen2_5", SYSTEM, ["It is 4.<|im_end|>\n"] * 2),
        # Qwen 3 writes thoughts, and empty ones, into turns after the last question alone.
        ("qwen3", LONG, ["It is 4.<|im_end|>\n", "<think>\n\n</think>\n\nIt is 4.<|im_end|>\n"]),
        ("qwen3", THOUGHT, ["4<|im_end|>\n", "<think>\nthree and three\n</think>\n\n6<|im_end|>\n"]),
    ],
    ids=["llama3", "qwen2.5", "qwen3", "qwen3-thoughts"],
)
def test_answers_of_templates_without_marks_are_found(
    name: str, messages: tuple[Message, ...], answers: list[str]
) -> None:
    assert counted(shipped(name), messages) == answers


QWEN_CALL = '<tool_call>\n{"name": "add", "arguments": {"a": 2, "b": [1, "é"]}}\n</tool_call><|im_end|>\n'
LLAMA_CALL = '{"name": "add", "parameters": {"a": 2, "b": [1, "é"]}}<|eot_id|>'
MISTRAL_CALL = '[TOOL_CALLS] [{"name": "add", "arguments": {"a": 2, "b": [1, "é"]}, "id": "abcdefghi"}]</s>'


@pytest.mark.parametrize(
    ("source", "answers"),
    [
        (shipped("qwen2_5"), [QWEN_CALL, "It is 4.<|im_end|>\n", "Bye<|im_end|>\n"]),
        (shipped("qwen3"), [QWEN_CALL, "It is 4.<|im_end|>\n", "<think>\n\n</think>\n\nBye<|im_end|>\n"]),
        (shipped("llama3_1"), [LLAMA_CALL, "It is 4.<|eot_id|>", "Bye<|eot_id|>"]),
        (template_source("chatml"), [QWEN_CALL, "It is 4.<|im_end|>\n", "Bye<|im_end|>\n"]),
        (template_source("llama3"), [LLAMA_CALL, "It is 4.<|eot_id|>", "Bye<|eot_id|>"]),
        (template_source("mistral"), [MISTRAL_CALL, " It is 4.</s>", " Bye</s>"]),
    ],
    ids=["qwen2.5", "qwen3", "llama3.1", "chatml", "our llama3", "our mistral"],
)
def test_tool_calls_are_answers_and_what_tools_say_is_not(source: str, answers: list[str]) -> None:
    assert counted(source, CALLING, TOOLS) == answers


@pytest.mark.parametrize("name", TEMPLATE_TOKENS)
@pytest.mark.parametrize("messages", [SHORT, SYSTEM, CALLING], ids=["short", "system", "tools"])
def test_a_named_template_renders_and_marks_as_in_transformers(name: str, messages: tuple[Message, ...]) -> None:
    tools = TOOLS if messages is CALLING else None
    source = template_source(name)
    if name == "gemma" and tools:
        with pytest.raises(TemplateRefused, match="does not write tool calls"):
            counted(source, messages, tools)
        return
    text, answers = by_transformers(source, messages, tools)
    assert ChatTemplate(source, ENDS).render(messages, tools=tools) == text
    assert counted(source, messages, tools) == answers


DATES = "Cutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n"


@pytest.mark.parametrize(
    ("ours", "theirs", "messages", "tools"),
    [
        ("llama3", "llama3", LONG, None),
        ("llama3", "llama3", SYSTEM, None),
        ("llama3", "llama3_1", CALLING, TOOLS),
        ("gemma", "gemma", LONG, None),
        ("gemma", "gemma3", SYSTEM, None),
        ("qwen", "qwen2_5", LONG, None),
        ("qwen", "qwen2_5", SYSTEM, TOOLS),
        ("qwen", "qwen2_5", LONG, TOOLS),
        ("chatml", "qwen3", (*CALLING[:4], *THOUGHT[2:3]), TOOLS),
    ],
)
@pytest.mark.parametrize("prompt", [False, True])
def test_a_named_template_writes_what_the_models_own_does(
    ours: str, theirs: str, messages: tuple[Message, ...], tools: Tools | None, prompt: bool
) -> None:
    def text(source: str) -> str:
        return ChatTemplate(source, ENDS).render(messages, tools=tools, add_generation_prompt=prompt)

    assert text(template_source(ours)) == text(shipped(theirs)).replace(DATES, "")


def test_mistrals_template_writes_system_and_tools_at_the_first_question() -> None:
    text = ChatTemplate(template_source("mistral"), ENDS).render(
        (Message("system", "Be brief."), *CALLING), tools=TOOLS
    )
    start = f"<s>[AVAILABLE_TOOLS] {json.dumps(TOOLS)}[/AVAILABLE_TOOLS]"
    results = '[TOOL_RESULTS] {"content": 4, "call_id": "abcdefghi"}[/TOOL_RESULTS]'
    assert (
        text
        == f"{start}[INST] Be brief.\n\n2+2?[/INST]{MISTRAL_CALL}{results} It is 4.</s>[INST] Thanks[/INST] Bye</s>"
    )


def test_tools_that_a_template_would_leave_out_are_refused() -> None:
    for messages, tools, words in ((CALLING, None, "tool calls"), (SHORT, TOOLS, "the row's tools")):
        with pytest.raises(TemplateRefused, match=f"does not write {words}; set model.chatTemplate"):
            counted(shipped("llama3"), messages, tools)


def test_a_named_template_needs_its_tokens() -> None:
    with pytest.raises(
        TrainerFailure, match=r"gemma needs the tokens <start_of_turn>, <end_of_turn>, which the model's"
    ):
        check_tokens("gemma", lambda token: False)
    check_tokens("{{ messages }}", lambda token: False)


def test_a_template_whose_turns_cannot_be_told_apart_is_refused_instead_of_guessed_at() -> None:
    """Phi 3 writes the end token after the last turn alone, so that no earlier turn's end can be told."""
    assert counted(shipped("phi3"), SHORT) == ["4<|end|>\n</s>"]
    with pytest.raises(TrainerFailure, match="renders earlier turns differently once later ones follow"):
        counted(shipped("phi3"), LONG)
