"""The licence of the base model, as its card names it."""

from __future__ import annotations

from pathlib import Path

import pytest

from finetune_trainer.model_license import read_license
from finetune_trainer.storage import open_storage


@pytest.mark.parametrize(
    ("card", "known"),
    [
        ("---\nlicense: apache-2.0\n---\n# x", ("apache-2.0", None, None)),
        ("---\nlicense: other\nlicense_name: llama3\nlicense_link: LICENSE\n---\n", ("other", "llama3", "LICENSE")),
        ("---\nlicense: [mit, apache-2.0]\n---\n", ("mit, apache-2.0", None, None)),
    ],
)
def test_a_card_that_names_a_licence(card: str, known: tuple[str | None, ...], tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text(card)
    found = read_license(open_storage(f"file://{tmp_path}"))
    assert found is not None
    assert (found.id, found.name, found.link) == known


@pytest.mark.parametrize(
    "card", ["", "# no front matter", "---\ntags: [x]\n---\n", "---\n: : :\n---\n", "---\nopen end"]
)
def test_a_card_that_names_none(card: str, tmp_path: Path) -> None:
    assert read_license(open_storage(f"file://{tmp_path}")) is None
    (tmp_path / "README.md").write_text(card)
    assert read_license(open_storage(f"file://{tmp_path}")) is None
