"""Settings of objective embedding."""

from __future__ import annotations

from enum import StrEnum
from typing import Literal

from pydantic import Field

from finetune_operator.api.model import SpecModel


class Pooling(StrEnum):
    """How the vector of a text is made of those of its tokens."""

    MEAN = "mean"
    CLS = "cls"
    LAST_TOKEN = "last-token"  # noqa: S105 - tokens of a text


class Embedding(SpecModel):
    """A vector for each text (Sentence-BERT, arXiv 1908.10084)."""

    pooling: Literal["auto", "mean", "cls", "last-token"] = Field(
        "auto",
        description="How the vector of a text is made of those of its tokens: their mean, the first one's (cls) or the last one's. auto takes what "
        "the model was trained with, where its folder says so (1_Pooling/config.json of sentence-transformers), else mean for encoders and "
        "last-token for decoders. Default auto.",
    )
    temperature: float = Field(
        0.05,
        gt=0,
        le=10,
        description="Cosines are divided by it before they are compared; a smaller one looks harder at the closest wrong texts. Not for rows with "
        "a score. Default 0.05.",
    )
