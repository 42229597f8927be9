"""The `finetune` command (and `kubectl finetune`): one module per sub-command, imported only when it is called.

Each module offers `add_arguments(parser)` and `run(options) -> int`. Reading one module's options must not cost another's imports:
`finetune plan` answers in less than a second.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from types import MappingProxyType
from typing import Final

from finetune_operator import __version__
from finetune_operator.cli.exit_codes import CLOSED_PIPE


@dataclass(frozen=True)
class Command:
    """A sub-command: where it lives and its one-line help."""

    module: str
    help: str


COMMANDS: Final[Mapping[str, Command]] = MappingProxyType(
    {
        "checkpoints": Command(
            "finetune_operator.cli.checkpoints_command", "list, verify or download what a job has saved"
        ),
        "estimate": Command(
            "finetune_operator.cli.estimate_command", "show the GPU memory of a model and a way to train it"
        ),
        "plan": Command("finetune_operator.cli.plan_command", "show how a job would run, without a cluster"),
        "run": Command("finetune_operator.cli.run_command", "run a job on this machine: inspect, plan, train, publish"),
    }
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the process's exit code; 2 for arguments that cannot be used."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    parser = argparse.ArgumentParser(
        prog="finetune", description="Plan and run fine-tuning jobs of finetune-operator.", allow_abbrev=False
    )
    parser.add_argument("--version", action="version", version=f"finetune {__version__}")
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    called = next((word for word in given if not word.startswith("-")), None)
    for name, command in COMMANDS.items():
        subparser = subparsers.add_parser(
            name, help=command.help, description=f"{command.help[0].upper()}{command.help[1:]}."
        )
        if name == called:
            import_module(command.module).add_arguments(subparser)
    options = parser.parse_args(given)
    try:
        exit_code: int = import_module(COMMANDS[options.command].module).run(options)
        sys.stdout.flush()
    except BrokenPipeError:
        # `finetune … | head`: the reader has enough. Python would flush once more at its end, and complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return CLOSED_PIPE
    return exit_code


if __name__ == "__main__":
    sys.exit(main())
