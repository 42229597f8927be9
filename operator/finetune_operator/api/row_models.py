"""Models that say of rows whether they are learned from: one that compares their meaning, and one that scores them."""

from __future__ import annotations

from typing import ClassVar, Final

from pydantic import Field

from finetune_operator.api.locations import Location, readable
from finetune_operator.api.model import Rule, SpecModel, text_rule

MOST_COMPARED: Final = 200_000
"""Rows that stay and that others are compared with: their vectors are in the inspect pod's memory, 2 bytes a number."""
LARGEST_EMBEDDER: Final = 2 * 2**30
"""Bytes of its weights, which are in the inspect pod's memory too."""
ROW_CRITERIA: Final = (
    "The example is worth learning from: what is asked is clear, and the answer right, complete and well written."
)


class SemanticDuplicates(SpecModel):
    """The model of deduplicate: semantic, and how near is the same."""

    uri: Location = Field(
        description="A model of sentence-transformers, at most 2 GiB; it runs on CPUs, in the inspect pod.",
    )
    revision: str = Field("main", max_length=100, description="Branch, tag or commit of an hf:// model. Default main.")
    threshold: float = Field(
        0.95,
        ge=0.5,
        lt=1,
        description="From which cosine with an earlier row one is left out. Default 0.95.",
    )

    rules: ClassVar[tuple[Rule, ...]] = (
        readable("dataset.filters.semantic.uri", "hf://sentence-transformers/all-MiniLM-L6-v2"),
    )


class RowJudge(SpecModel):
    """A language model that scores rows, behind an endpoint that speaks OpenAI's chat completions. It is sent the rows' texts."""

    url: str = Field(max_length=512, description="The endpoint's base, to which /chat/completions is added.")
    model: str = Field(min_length=1, max_length=200, description="The model's name there.")
    criteria: str = Field(
        ROW_CRITERIA,
        min_length=1,
        max_length=4000,
        description="What a good row is, in words for the judge.",
    )
    least_score: int = Field(3, ge=2, le=5, description="Of 1 to 5; rows with less are left out. Default 3.")
    timeout_seconds: int = Field(60, ge=1, le=600, description="For one reply. Default 60.")

    rules: ClassVar[tuple[Rule, ...]] = (
        text_rule(
            "url",
            "url",
            "^https?://[!-~]+$",
            "dataset.filters.judge.url: write the base of an OpenAI-compatible endpoint, such as https://api.openai.com/v1",
        ),
    )
