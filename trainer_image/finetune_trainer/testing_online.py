"""What tests of grpo and rloo run on: sums of one digit, a model whose answers end early, and rewards of a user."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

SUMS: Final[tuple[dict[str, Any], ...]] = tuple(
    {"prompt": f"{one}+{other}=", "answer": str(one + other)} for one in range(1, 9) for other in range(1, 10 - one)
)


def write_ending_model(folder: Path, model: Path, ends: int = 200) -> Path:
    """Copy a model so that so many words of its vocabulary end an answer: lengths differ from answer to answer, and from rank to rank."""
    shutil.copytree(model, folder)
    path = folder / "generation_config.json"
    settings = json.loads(path.read_text())
    path.write_text(json.dumps({**settings, "eos_token_id": list(range(300, 300 + ends))}))
    return folder


def first_is_digit(completions: Sequence[str], answer: Sequence[str], **others: Any) -> list[float | None]:
    """Return 1 for an answer that begins with a digit, None (no opinion) where the sum is 9."""
    return [
        None if right == "9" else float(text[:1].isdigit()) for text, right in zip(completions, answer, strict=True)
    ]


def no_opinion(completions: Sequence[str], **others: Any) -> list[float | None]:
    """Return None for every answer."""
    return [None] * len(completions)
