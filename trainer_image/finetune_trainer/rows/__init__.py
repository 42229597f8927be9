"""From the lines of a data set's files to rows that can be trained on: pure, and the same code in inspect and in train.

Both must see the same rows in the same order, or the plan counts what is not trained. So everything that decides over a row is here: which
layout a data set has, how a row becomes its canonical value, and why another one cannot.
A reason names columns and roles, never a value.
"""

from finetune_trainer.rows.convert import convert, read_rows, to_row
from finetune_trainer.rows.layout import DETECTION_ROWS, LayoutUnknown, RowLayout, choose_layout
from finetune_trainer.rows.values import (
    Conversation,
    JudgedCompletion,
    LabelledText,
    LabelledWords,
    Message,
    PositivePair,
    Preference,
    Prompt,
    PromptCompletion,
    RawText,
    Row,
    RowValue,
    ScoredPair,
    Tools,
    Turns,
)

__all__ = [
    "DETECTION_ROWS",
    "Conversation",
    "JudgedCompletion",
    "LabelledText",
    "LabelledWords",
    "LayoutUnknown",
    "Message",
    "PositivePair",
    "Preference",
    "Prompt",
    "PromptCompletion",
    "RawText",
    "Row",
    "RowLayout",
    "RowValue",
    "ScoredPair",
    "Tools",
    "Turns",
    "choose_layout",
    "convert",
    "read_rows",
    "to_row",
]
