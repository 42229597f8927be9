"""README's table of what can be named is what the API has."""

import re
from pathlib import Path

import pytest

from finetune_operator.api.compatibility import Objective
from finetune_operator.api.methods import Method

README = (Path(__file__).parents[2] / "README.md").read_text()


@pytest.mark.parametrize(("what", "names"), [("objective", Objective), ("method", Method)])
def test_readme_names_every_objective_and_method(what: str, names: type[Objective] | type[Method]) -> None:
    (row,) = (line for line in README.splitlines() if line.startswith(f"| [{what}]"))
    assert set(re.findall(r"`([a-z0-9-]+)`", row)) == set(names)
