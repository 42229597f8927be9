"""What a job starts from: the model and the rows."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, ClassVar, Final, Literal, get_args

from pydantic import Field, StringConstraints
from pydantic.alias_generators import to_camel

from finetune_operator.api.chat_templates import TEMPLATE_LIMIT, TEMPLATE_TOKENS
from finetune_operator.api.evaluation import EvaluationSource, Split
from finetune_operator.api.layouts import Layout, layouts_with, listed
from finetune_operator.api.locations import OBJECT_NAME_PATTERN, Location, ObjectName, readable, startable
from finetune_operator.api.model import Rule, SpecModel, text_rule
from finetune_operator.api.row_models import RowJudge, SemanticDuplicates


def _quoted(names: Iterable[str]) -> str:
    """Return names as a CEL list has them."""
    return ", ".join(f"'{name}'" for name in names)


class Cache(SpecModel):
    """Where the downloaded model is kept for other pods and jobs: one download per place and version, verified by hash before every use."""

    persistent_volume_claim: ObjectName | None = Field(
        None,
        description="A PersistentVolumeClaim in the job's namespace. Pods on several nodes need one of access mode ReadWriteMany.",
    )
    node: bool = Field(
        False,
        description="A folder on each node, shared by the jobs of the namespace. The installation must allow it (chart value modelCache.nodePath).",
    )

    rules: ClassVar[tuple[Rule, ...]] = (
        text_rule(
            "persistentVolumeClaim",
            "persistent_volume_claim",
            OBJECT_NAME_PATTERN,
            "model.cache.persistentVolumeClaim is the name of a claim in the job's namespace (lower-case letters, digits, - and .)",
        ),
        Rule(
            cel="has(self.persistentVolumeClaim) != self.node",
            message="model.cache: name a persistentVolumeClaim or set node: true, one of the two; remove model.cache for none",
            holds=lambda c: (c.persistent_volume_claim is not None) != c.node,
        ),
    )


class ModelSource(SpecModel):
    """The model to start from."""

    uri: Location = Field(
        description="Where the model is: hf://org/name, or a folder at s3://, gs://, az:// (file:// in local runs); or ftj://NAME, the result of "
        "the job NAME of this namespace, which is waited for."
    )
    revision: str = Field(
        "main",
        max_length=200,
        description="Branch, tag or commit of an hf:// model; the inspection resolves it to a commit, which status records. Default main.",
    )
    trust_remote_code: bool = Field(
        False, description="Run Python code that the model's repository brings. Default false: such a model is refused."
    )
    chat_template: str | None = Field(
        None,
        max_length=TEMPLATE_LIMIT,
        description=f"The chat template that renders conversations and is published with the model: {listed(TEMPLATE_TOKENS)}, or a Jinja "
        "template. Default: the model's own.",
    )
    cache: Cache | None = Field(
        None,
        description="Where the downloaded model is kept for other pods and jobs. Default: nowhere; every pod of every attempt downloads it.",
    )

    rules: ClassVar[tuple[Rule, ...]] = (
        startable("model.uri"),
        Rule(
            cel=f"!has(self.chatTemplate) || self.chatTemplate.contains('{{') || self.chatTemplate in [{_quoted(TEMPLATE_TOKENS)}]",
            message=f"model.chatTemplate: name one of {listed(TEMPLATE_TOKENS)}, or write a Jinja template",
            holds=lambda m: m.chat_template is None or "{" in m.chat_template or m.chat_template in TEMPLATE_TOKENS,
        ),
    )


Format = Literal[
    "auto",
    "messages",
    "prompt-completion",
    "alpaca",
    "sharegpt",
    "text",
    "preference",
    "kto",
    "classification",
    "token-classification",
    "scored-pair",
    "triplet",
    "pair",
    "prompt",
]
"""The layouts that the objectives learn from; a test compares them with the tables in layouts.py."""
FORMATS: Final = tuple(Layout(name) for name in get_args(Format) if name != "auto")

ColumnName = Annotated[str, StringConstraints(min_length=1, max_length=100)]


def _column(name: str, what: str) -> Any:
    """Return the field of a column with the formats that have it."""
    formats = layouts_with(name, FORMATS)
    return Field(None, description=f"The column with {what} (format {listed(formats)}).")


class Columns(SpecModel):
    """Names of the data set's columns, where they differ from the format's own."""

    messages: ColumnName | None = _column("messages", "the list of messages")
    conversations: ColumnName | None = _column("conversations", "the list of turns")
    system: ColumnName | None = _column("system", "the optional system message")
    tools: ColumnName | None = _column("tools", "the optional list of tools")
    prompt: ColumnName | None = _column("prompt", "the prompt")
    completion: ColumnName | None = _column("completion", "the answer")
    chosen: ColumnName | None = _column("chosen", "the better answer, alone or with the prompt before it")
    rejected: ColumnName | None = _column("rejected", "the worse answer, alone or with the prompt before it")
    instruction: ColumnName | None = _column("instruction", "the instruction")
    input: ColumnName | None = _column("input", "the optional input")
    output: ColumnName | None = _column("output", "the answer")
    text: ColumnName | None = _column("text", "the text")
    text_pair: ColumnName | None = _column(
        "text_pair", "the optional second text, which is read together with the first"
    )
    label: ColumnName | None = _column(
        "label", "the class: its name, a whole number or a truth value; of kto: whether the answer is wanted"
    )
    tokens: ColumnName | None = _column("tokens", "the list of words")
    tags: ColumnName | None = _column("tags", "the list of each word's class")
    sentence1: ColumnName | None = _column("sentence1", "the first text of a pair")
    sentence2: ColumnName | None = _column("sentence2", "its second text")
    score: ColumnName | None = _column("score", "how well they go together, a number")
    anchor: ColumnName | None = _column("anchor", "the text that others are compared with, such as a question")
    positive: ColumnName | None = _column("positive", "one that belongs to it")
    negative: ColumnName | None = _column("negative", "one that does not")

    @property
    def named(self) -> dict[str, str]:
        """Those that are set: the data set's names by the format's own."""
        return {name: value for name in type(self).model_fields if (value := getattr(self, name)) is not None}


def _belongs(column: str) -> Rule:
    """Return the rule that a column is named only for formats that have it."""
    formats = layouts_with(column, FORMATS)
    return Rule(
        cel=f"!has(self.columns.{to_camel(column)}) || self.format in [{_quoted(('auto', *formats))}]",
        message=f"dataset.columns.{to_camel(column)} belongs to format {listed(formats)}; set dataset.format to that or remove it",
        holds=lambda d: getattr(d.columns, column) is None or d.format in ("auto", *formats),
    )


Keyword = Annotated[str, StringConstraints(min_length=1, max_length=200)]


class Keywords(SpecModel):
    """Words that rows must not have, or must have; searched in what users and assistants say, whatever the case."""

    deny: list[Keyword] = Field(
        default_factory=list, max_length=1000, description="A row with any of these is left out."
    )
    allow: list[Keyword] = Field(
        default_factory=list,
        max_length=1000,
        description="Where there are some, a row without any of them is left out.",
    )


class Filters(SpecModel):
    """Which rows are used, and how many may be unusable."""

    min_tokens: int | None = Field(None, ge=1, description="Shorter rows are left out. Default: none.")
    max_tokens: int | None = Field(
        None, ge=1, description="Longer rows are left out, instead of cut at training.maxLength. Default: none."
    )
    keywords: Keywords = Field(default_factory=Keywords, description="Rows by words in them.")
    deduplicate: Literal["exact", "minhash", "semantic"] | None = Field(
        None,
        description="Rows that are equal to an earlier one (exact), nearly the same (minhash), or mean the same (semantic) "
        "are left out. Default: all stay, and equal ones are counted.",
    )
    semantic: SemanticDuplicates | None = Field(None, description="The model of deduplicate: semantic.")
    judge: RowJudge | None = Field(None, description="A language model that scores the rows that stay. Default: none.")
    max_dropped: float = Field(
        0.05,
        ge=0,
        le=1,
        description="The share of rows (0 to 1) that may be unusable before the job fails; those that filters leave out are not among them. "
        "Default 0.05; 0 allows none.",
    )

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="(has(self.deduplicate) && self.deduplicate == 'semantic') == has(self.semantic)",
            message="dataset.filters.semantic: deduplicate: semantic needs a model there, and nothing else has one; add uri, or remove it",
            holds=lambda f: (f.deduplicate == "semantic") == (f.semantic is not None),
        ),
        Rule(
            cel="!has(self.minTokens) || !has(self.maxTokens) || self.minTokens <= self.maxTokens",
            message="dataset.filters: minTokens is more than maxTokens, which leaves no row; lower minTokens or raise maxTokens",
            holds=lambda f: f.min_tokens is None or f.max_tokens is None or f.min_tokens <= f.max_tokens,
        ),
    )


class Dataset(SpecModel):
    """The rows to learn from."""

    uri: Location = Field(
        description="A file at s3://, gs://, az:// or hf://datasets/org/name/path (file:// in local runs): JSONL, JSON, CSV, Parquet or Arrow; "
        "a * matches several files."
    )
    format: Format = Field(
        "auto",
        description="How a row is laid out. Default auto: detected from the columns of the first rows, and reported in status.",
    )
    columns: Columns = Field(
        default_factory=Columns, description="Names of the columns, where they differ from the format's own."
    )
    split: Split | None = Field(None, description="Keep some of the rows to evaluate on. Not with evaluation.")
    evaluation: EvaluationSource | None = Field(None, description="Rows of their own to evaluate on. Not with split.")
    filters: Filters = Field(default_factory=Filters, description="Which rows are used, and how many may be unusable.")

    rules: ClassVar[tuple[Rule, ...]] = (
        readable("dataset.uri", "s3://bucket/rows.jsonl or hf://datasets/org/name/rows.jsonl"),
        *map(_belongs, Columns.model_fields),
        Rule(
            cel="!(has(self.split) && has(self.evaluation))",
            message="dataset: split and evaluation exclude each other; remove one",
            holds=lambda d: d.split is None or d.evaluation is None,
        ),
    )

    @property
    def evaluates(self) -> bool:
        """Whether there are rows to evaluate on."""
        return self.split is not None or self.evaluation is not None
