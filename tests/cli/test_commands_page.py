"""docs/reference/commands.md and the commands name the same options and exit codes."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from types import ModuleType

import pytest

from finetune_operator.cli import checkpoints_command, exit_codes, plan_command, run_command

PAGE = (Path(__file__).parents[2] / "docs" / "reference" / "commands.md").read_text()


@pytest.mark.parametrize(
    ("name", "command"), [("plan", plan_command), ("run", run_command), ("checkpoints", checkpoints_command)]
)
def test_every_option_of_a_command_has_a_row_and_no_other(name: str, command: ModuleType) -> None:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    options = {option for action in parser._actions for option in action.option_strings if option.startswith("--")}
    section = PAGE.partition(f"## finetune {name}\n")[2].partition("\n## ")[0]
    assert set(re.findall(r"^\| `(--[a-z-]+)", section, re.MULTILINE)) == options - {"--help"}


def test_every_exit_code_of_our_own_has_a_row() -> None:
    codes = {value for name, value in vars(exit_codes).items() if name.isupper()}
    listed = {int(code) for code in re.findall(r"^\| (\d+) \|", PAGE, re.MULTILINE)}
    assert listed == codes | {0}
