"""Seconds from the start of the trainer's process to its first optimizer step, against the bare imports of the same libraries in the same run.

    python bench/first_step.py [--runs 3]

One process on the CPU, a tiny model: what remains is what every start of every attempt costs. Prints JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from finetune_operator.api.constants import TERMINATION_LOG_VARIABLE, WORK_DIRECTORY_VARIABLE
from finetune_operator.api.run_events import RUN_EVENTS_VARIABLE
from finetune_trainer.testing import arithmetic_rows, tiny_attempt, write_rows, write_tiny_model

IMPORTS = "import torch, transformers, accelerate, peft, trl; from trl import SFTTrainer"


def seconds_of_imports() -> float:
    """What a process that does nothing else takes."""
    started = time.monotonic()
    subprocess.run([sys.executable, "-c", IMPORTS], check=True, capture_output=True)
    return time.monotonic() - started


def seconds_to_first_step(model: Path, data: Path, folder: Path) -> float:
    """Launch one attempt and wait for its first step event."""
    folder.mkdir()
    plan, events = folder / "plan.json", folder / "events.jsonl"
    plan.write_text(tiny_attempt(model, data, folder / "output").model_dump_json(by_alias=True, exclude_none=True))
    environment = {
        **os.environ,
        RUN_EVENTS_VARIABLE: str(events),
        TERMINATION_LOG_VARIABLE: str(folder / "termination"),
        WORK_DIRECTORY_VARIABLE: str(folder / "work"),
    }
    started = time.monotonic()
    command = [sys.executable, "-m", "finetune_trainer", "launch", "--plan", str(plan)]
    with (
        (folder / "log").open("wb") as log,
        subprocess.Popen(command, env=environment, stdout=log, stderr=log) as process,
    ):
        while not (events.exists() and '"step"' in events.read_text()):
            if process.poll() is not None:
                raise SystemExit(f"the trainer ended early:\n{(folder / 'log').read_text()}")
            time.sleep(0.02)
        taken = time.monotonic() - started
        process.wait()
    return taken


def main() -> None:
    """Measure in turns, so that a busy moment hits both, and print medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        rows = arithmetic_rows(64)
        data = write_rows(root / "rows.jsonl", rows)
        model = write_tiny_model(root / "model", rows)
        imports, first_steps = [], []
        for number in range(options.runs):
            imports.append(seconds_of_imports())
            first_steps.append(seconds_to_first_step(model, data, root / str(number)))
    bare, ours = statistics.median(imports), statistics.median(first_steps)
    figures = {
        "runs": options.runs,
        "imports_seconds": round(bare, 2),
        "first_step_seconds": round(ours, 2),
        "imports_share": round(bare / ours, 3),
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
