"""What a job starts from: the model and the rows."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from finetune_operator.api.locations import OBJECT_NAME_PATTERN, Location, ObjectName, readable
from finetune_operator.api.model import Rule, SpecModel, text_rule


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
        description="Where the model is: hf://org/name, or a folder at s3://, gs://, az:// (file:// in local runs)."
    )
    revision: str = Field(
        "main",
        max_length=200,
        description="Branch, tag or commit of an hf:// model; the inspection resolves it to a commit, which status records. Default main.",
    )
    trust_remote_code: bool = Field(
        False, description="Run Python code that the model's repository brings. Default false: such a model is refused."
    )
    cache: Cache | None = Field(
        None,
        description="Where the downloaded model is kept for other pods and jobs. Default: nowhere; every pod of every attempt downloads it.",
    )

    rules: ClassVar[tuple[Rule, ...]] = (readable("model.uri", "hf://org/name or s3://bucket/folder"),)


class Columns(SpecModel):
    """Names of the data set's columns, where they differ from the format's own."""

    messages: str | None = Field(
        None, min_length=1, max_length=100, description="The column with the list of messages (format messages)."
    )
    prompt: str | None = Field(
        None, min_length=1, max_length=100, description="The column with the prompt (format prompt-completion)."
    )
    completion: str | None = Field(
        None, min_length=1, max_length=100, description="The column with the answer (format prompt-completion)."
    )
    instruction: str | None = Field(
        None, min_length=1, max_length=100, description="The column with the instruction (format alpaca)."
    )
    input: str | None = Field(
        None, min_length=1, max_length=100, description="The column with the optional input (format alpaca)."
    )
    output: str | None = Field(
        None, min_length=1, max_length=100, description="The column with the answer (format alpaca)."
    )


class Filters(SpecModel):
    """Which rows are used, and how many may be unusable."""

    max_dropped: float = Field(
        0.05,
        ge=0,
        le=1,
        description="The share of rows (0 to 1) that may be unusable before the job fails. Default 0.05; 0 allows none.",
    )


class Dataset(SpecModel):
    """The rows to learn from."""

    uri: Location = Field(
        description="A JSONL file at s3://, gs://, az:// or hf://datasets/org/name/path (file:// in local runs); a * matches several files."
    )
    format: Literal["auto", "messages", "prompt-completion", "alpaca"] = Field(
        "auto",
        description="How a row is laid out. Default auto: detected from the columns of the first rows, and reported in status.",
    )
    columns: Columns = Field(
        default_factory=Columns, description="Names of the columns, where they differ from the format's own."
    )
    filters: Filters = Field(default_factory=Filters, description="Which rows are used, and how many may be unusable.")

    rules: ClassVar[tuple[Rule, ...]] = (
        readable("dataset.uri", "s3://bucket/rows.jsonl or hf://datasets/org/name/rows.jsonl"),
        Rule(
            cel="!(has(self.columns.prompt) != has(self.columns.completion))",
            message="dataset.columns: prompt and completion go together; name both or neither",
            holds=lambda d: (d.columns.prompt is None) == (d.columns.completion is None),
        ),
        Rule(
            cel="self.format == 'auto' || self.format == 'prompt-completion' || !has(self.columns.prompt)",
            message="dataset.columns.prompt belongs to format prompt-completion; set dataset.format: prompt-completion or remove it",
            holds=lambda d: d.format in ("auto", "prompt-completion") or d.columns.prompt is None,
        ),
        Rule(
            cel="self.format == 'auto' || self.format == 'messages' || !has(self.columns.messages)",
            message="dataset.columns.messages belongs to format messages; set dataset.format: messages or remove it",
            holds=lambda d: d.format in ("auto", "messages") or d.columns.messages is None,
        ),
        Rule(
            cel="self.format == 'auto' || self.format == 'alpaca' || !has(self.columns.instruction)",
            message="dataset.columns.instruction belongs to format alpaca; set dataset.format: alpaca or remove it",
            holds=lambda d: d.format in ("auto", "alpaca") or d.columns.instruction is None,
        ),
    )
