"""Chat templates rendered as transformers renders them, without transformers: inspect counts exactly the text that training sees.

A template is somebody else's program. It runs in jinja's immutable sandbox, on plain text only, and what it says when it refuses a
conversation is repeated only where those words stand in the template itself: anything else may hold the row's content.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Final

import jinja2
from jinja2.ext import Extension, loopcontrols
from jinja2.nodes import CallBlock, Node
from jinja2.parser import Parser
from jinja2.runtime import Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment

from finetune_operator.api.exit_codes import ExitCode
from finetune_trainer.failures import TrainerFailure
from finetune_trainer.rows.values import Message, Tools

_GENERATION: Final = re.compile(r"\{%[-+]?\s*generation\s*[-+]?%\}")


class TemplateRefused(Exception):
    """The template cannot render this conversation; the message is free of its content."""


class _Generation(Extension):
    """The tag pair {% generation %}…{% endgeneration %}, which marks what the assistant wrote, and where that is in the text."""

    tags = {"generation"}  # noqa: RUF012 - declared by jinja as an instance variable

    def __init__(self, environment: jinja2.Environment) -> None:
        super().__init__(environment)
        self.blocks: list[str] | None = None
        self.spans: list[tuple[int, int]] = []

    def parse(self, parser: Parser) -> Node | list[Node]:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return CallBlock(self.call_method("_note_span"), [], [], body).set_lineno(line)

    def _note_span(self, caller: Macro) -> str:
        text: str = caller()
        if self.blocks is not None:
            start = sum(map(len, self.blocks))
            self.spans.append((start, start + len(text)))
        return text

    @contextmanager
    def noting(self) -> Iterator[tuple[list[str], list[tuple[int, int]]]]:
        """Note spans while the blocks of one rendering are appended to the yielded list."""
        self.blocks, self.spans = [], []
        try:
            yield self.blocks, self.spans
        finally:
            self.blocks = None


class ChatTemplate:
    """A compiled template with the tokenizer's special tokens."""

    def __init__(self, source: str, special_tokens: Mapping[str, str]) -> None:
        self._source = source
        self._special_tokens = dict(special_tokens)
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
        )
        environment.filters["tojson"] = _to_json
        environment.globals["raise_exception"] = _raise_exception
        environment.globals["strftime_now"] = _now_as
        try:
            self._template = environment.from_string(source)
        except jinja2.TemplateSyntaxError as error:
            raise TrainerFailure(
                ExitCode.BAD_DATA,
                f"the chat template is not valid at line {error.lineno}: {error.message}; mend model.chatTemplate, or the model's "
                "chat_template.jinja (chat_template in tokenizer_config.json)",
            ) from None
        (self._generation,) = (
            extension for extension in environment.extensions.values() if isinstance(extension, _Generation)
        )

    @property
    def marks_generation(self) -> bool:
        """Whether the template says which part the assistant wrote."""
        return _GENERATION.search(self._source) is not None

    def render(
        self, messages: Sequence[Message], *, tools: Tools | None = None, add_generation_prompt: bool = False
    ) -> str:
        """Return the text of a conversation."""
        return "".join(self._blocks(messages, tools, add_generation_prompt))

    def render_with_spans(
        self, messages: Sequence[Message], tools: Tools | None = None
    ) -> tuple[str, list[tuple[int, int]]]:
        """Return the text of a conversation and where in it the marked answers stand."""
        with self._generation.noting() as (blocks, spans):
            for block in self._blocks(messages, tools, add_generation_prompt=False):
                blocks.append(block)
            return "".join(blocks), list(spans)

    def _blocks(self, messages: Sequence[Message], tools: Tools | None, add_generation_prompt: bool) -> Iterator[str]:
        if tools and "tools" not in self._source:
            raise TemplateRefused("the chat template does not write the row's tools; set model.chatTemplate")
        if "tool_calls" not in self._source and any(
            message.more and "tool_calls" in message.more for message in messages
        ):
            # transformers renders such a turn without its call, and a model would learn to say nothing.
            raise TemplateRefused("the chat template does not write tool calls; set model.chatTemplate")
        try:
            yield from self._template.generate(
                messages=[message.to_dict() for message in messages],
                tools=None if tools is None else list(tools),
                documents=None,
                add_generation_prompt=add_generation_prompt,
                **self._special_tokens,
            )
        except jinja2.TemplateError as error:
            said = (error.message or "").strip()
            known = f": {said[:200]}" if said and said in self._source else ""
            raise TemplateRefused(f"the chat template refuses the conversation{known}") from None
        except (TypeError, ValueError, KeyError, AttributeError, ArithmeticError, RecursionError) as error:
            raise TemplateRefused(f"the chat template fails on the conversation ({type(error).__name__})") from None


def _to_json(
    value: object,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise_exception(message: str) -> None:
    raise jinja2.TemplateError(message)


def _now_as(pattern: str) -> str:
    return datetime.now().strftime(pattern)  # noqa: DTZ005 - as transformers does, so that both render the same
