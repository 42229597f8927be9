"""A trace of a model that no table knows, for commands without a cluster: by the trainer's oracle, where its packages are installed."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from pydantic import ValidationError

from finetune_operator.api.architecture_trace import ArchitectureTrace, why_not_traced
from finetune_operator.cli.model_config import config_in_folder

NEEDED: Final = ("finetune_trainer", "torch", "transformers", "peft")


def trace_of_folder(
    folder: Path, *, trusts_code: bool = False, needed: tuple[str, ...] = NEEDED
) -> ArchitectureTrace | str:
    """Return what the oracle measures of the model whose config.json is in `folder`, after half a minute; or why it cannot.

    Raises:
        UnreadableManifest: there is no usable config.json.
    """
    refusal = why_not_traced(config_in_folder(folder), trusts_code=trusts_code)
    if refusal is not None:
        return refusal
    missing = [name for name in needed if find_spec(name) is None]
    if missing:
        return (
            f"that takes the trainer's packages, and {', '.join(missing)} cannot be imported here; "
            "pip install 'finetune-operator[trainer]', or give --inspection FILE of a job that a cluster has inspected"
        )
    print("no table knows this model: tracing it on fake tensors, which takes about half a minute …", file=sys.stderr)
    command = [
        sys.executable,
        "-m",
        "finetune_trainer.oracle",
        "--architecture",
        "--config",
        str(folder / "config.json"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    if done.returncode != 0:
        return done.stderr.strip().rpartition("\n")[2] or f"the oracle ended with exit code {done.returncode}"
    try:
        return ArchitectureTrace.model_validate_json(done.stdout)
    except ValidationError as error:
        return f"the oracle's answer cannot be read: {error.errors(include_url=False)[0]['msg']}"
