"""Conversations as rows have them (OpenAI's messages, ShareGPT's turns) and the order of roles that can be trained on."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Final

from finetune_operator.api.layouts import listed
from finetune_trainer.rows.kinds import kind_of
from finetune_trainer.rows.values import Message, Tools, Turns

_ROLES: Final = frozenset({"system", "developer", "user", "assistant", "tool"})
_SHAREGPT_ROLES: Final[Mapping[object, str]] = {
    "system": "system",
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "assistant": "assistant",
    "model": "assistant",
    "function_call": "assistant",
    "observation": "tool",
    "tool": "tool",
}
OPENING: Final = ("system", "developer", "user")
"""The roles that a conversation can begin with."""
ANSWER: Final = ("assistant",)
_AFTER: Final[Mapping[str, tuple[str, ...]]] = {
    "system": ("user",),
    "developer": ("user",),
    "user": ANSWER,
    "assistant": ("user",),
    "tool": ("assistant", "tool"),
}
_AFTER_CALLS: Final = ("tool",)


def conversation(value: object, column: str, *, expected: tuple[str, ...] = OPENING) -> Turns | str:
    """Return the turns of a conversation that ends with the assistant's, or the reason why it is none.

    `expected` are the roles that the first turn may have.
    """
    messages = turns(value, column, expected)
    if isinstance(messages, str) or messages[-1].role == "assistant":
        return messages
    if all(message.role != "assistant" for message in messages):
        return "no assistant turn"
    return "the last turn is not the assistant's"


def prompt(value: object, column: str) -> Turns | str:
    """Return the turns of a conversation that an assistant's turn can follow, or the reason why it is none."""
    messages = turns(value, column, OPENING)
    if isinstance(messages, str) or messages[-1].role in ("user", "tool"):
        return messages
    return f"the last turn of column {column} is {messages[-1].role}, expected user or tool"


def turns(value: object, column: str, expected: tuple[str, ...]) -> Turns | str:
    """Return the turns of a list of messages whose roles are in order, or the reason why it is none."""
    if not isinstance(value, list):
        return f"column {column} is {kind_of(value)}, not a list of messages"
    if not value:
        return f"column {column} is empty"
    messages: list[Message] = []
    for index, item in enumerate(value, start=1):
        message = _message(item, index)
        if isinstance(message, str):
            return message
        if message.role not in expected:
            return f"roles out of order: message {index} is {message.role}, expected {listed(expected)}"
        expected = _AFTER_CALLS if _calls(message) else _AFTER[message.role]
        messages.append(message)
    return tuple(messages)


def _calls(message: Message) -> bool:
    return message.more is not None and "tool_calls" in message.more


def _message(item: object, index: int) -> Message | str:
    if not isinstance(item, dict):
        return f"message {index} is {kind_of(item)}, not an object"
    if "from" in item and "role" not in item:
        return _from_sharegpt(item, index)
    role, content = item.get("role"), item.get("content")
    if not isinstance(role, str) or role not in _ROLES:
        return f"message {index} has no role, or one that is not system, developer, user, assistant or tool"
    more = None
    if len(item) > 2 or "content" not in item:
        # Files with a schema (Parquet, Arrow) have every key in every message: null is absent.
        more = {key: entry for key, entry in item.items() if key not in ("role", "content") and entry is not None}
        problem = _tidy_calls(more, role, index)
        if problem is not None:
            return problem
    if content is None and more and "tool_calls" in more:
        content = ""
    if not isinstance(content, str):
        return f"the content of message {index} ({role}) is {kind_of(content)}, not text"
    if not content.strip() and role not in ("system", "tool") and not (more and "tool_calls" in more):
        return f"the content of message {index} ({role}) is empty"
    return Message(role, content, more or None)


def _tidy_calls(more: dict[str, object], role: str, index: int) -> str | None:
    """Make the arguments of a message's tool calls objects; OpenAI's API gives them as JSON text, which templates would quote once more."""
    calls = more.get("tool_calls")
    if not calls:
        more.pop("tool_calls", None)
        return None
    if role != "assistant":
        return f"message {index} ({role}) has tool_calls, which are the assistant's"
    if not isinstance(calls, list):
        return f"tool_calls of message {index} is {kind_of(calls)}, not a list"
    tidy: list[object] = []
    for call in calls:
        function = call.get("function", call) if isinstance(call, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            return f"tool_calls of message {index} has an entry without the function's name"
        arguments = function.get("arguments", {})
        if isinstance(arguments, str):
            arguments = _parsed(arguments)
        if not isinstance(arguments, dict):
            return f"tool_calls of message {index} has arguments that are no object"
        function = {**function, "arguments": arguments}
        tidy.append({**call, "function": function} if "function" in call else function)
    more["tool_calls"] = tidy
    return None


def _from_sharegpt(item: Mapping[str, object], index: int) -> Message | str:
    said, content = item["from"], item.get("value")
    role = _SHAREGPT_ROLES.get(said) if isinstance(said, str) else None
    if role is None:
        return f"message {index} has no from, or one that is not system, human, gpt, function_call, observation or tool"
    if not isinstance(content, str):
        return f"the value of message {index} ({role}) is {kind_of(content)}, not text"
    if said == "function_call":
        call = _parsed(content)
        calls = call if isinstance(call, list) else [call]
        more: dict[str, object] = {"tool_calls": [{"type": "function", "function": each} for each in calls]}
        return _tidy_calls(more, role, index) or Message(role, "", more)
    if not content.strip() and role not in ("system", "tool"):
        return f"the value of message {index} ({role}) is empty"
    return Message(role, content)


def tools(value: object, column: str) -> Tools | str | None:
    """Return the tools of a row, given as a list or as its JSON text; None where there are none."""
    if isinstance(value, str):
        value = _parsed(value) if value.strip() else None
    if value is None or value == []:
        return None
    if not isinstance(value, Sequence) or not all(isinstance(item, dict) for item in value):
        return f"column {column} is {kind_of(value)}, not a list of tools"
    return tuple(value)


def _parsed(text: str) -> object:
    """Return what JSON text says; the text itself where it says nothing that could be tokenized."""
    try:
        value = json.loads(text)
        if "\\u" in text:
            json.dumps(value, ensure_ascii=False).encode()  # half a surrogate pair is no character
    except (ValueError, RecursionError):
        return text
    return value
