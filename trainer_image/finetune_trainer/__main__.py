"""`python -m finetune_trainer inspect|launch|train|evaluate|publish|checkpoints`.

Each command imports only what it needs: inspect has no torch in its image.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from finetune_operator.api.constants import PLAN_PATH
from finetune_operator.api.exit_codes import ExitCode


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code (`finetune_operator.api.exit_codes`)."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    command, rest = (given[0], given[1:]) if given else ("", [])
    if command == "inspect":
        from finetune_trainer.inspect.command import run

        return int(run(rest))
    if command == "checkpoints":
        from finetune_trainer.checkpoint_tool import run as run_checkpoints

        return run_checkpoints(rest)
    if command == "agent":
        from finetune_trainer.agent import run_agent
        from finetune_trainer.rank_files import RUN_DIRECTORY_VARIABLE, RunDirectory

        return run_agent(rest, RunDirectory(Path(os.environ[RUN_DIRECTORY_VARIABLE])))
    parser = argparse.ArgumentParser("finetune_trainer", description=__doc__)
    parser.add_argument(
        "command",
        choices=("inspect", "launch", "train", "evaluate", "publish"),
        help="inspect: read model and data. launch: a training pod. train: one rank, evaluate: the model after it, both started by launch. "
        "publish: the result.",
    )
    parser.add_argument("--plan", type=Path, default=Path(PLAN_PATH), help=f"the attempt's file (default {PLAN_PATH})")
    options = parser.parse_args(given)
    if options.command == "launch":
        # The kernel keeps SIGTERM from a container's first process until there is a handler, and the launcher's comes after a second of imports:
        # a pod that is stopped meanwhile would train until its grace period is over.
        signal.signal(signal.SIGTERM, lambda number, frame: os._exit(ExitCode.TERMINATED))
        from finetune_trainer.launch import launch

        return launch(options.plan)
    if options.command == "train":
        from finetune_trainer.train import train

        return train(options.plan)
    if options.command == "evaluate":
        from finetune_trainer.after_training.command import evaluate

        return evaluate(options.plan)
    from finetune_trainer.publish.command import publish

    return publish(options.plan)


if __name__ == "__main__":
    sys.exit(main())
