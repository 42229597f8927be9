"""The main job without a cluster: `make demo`.

Makes a tiny model and its data, runs examples/demo/job.yaml with `finetune run`, kills one of the two training processes after the first verified
checkpoint, lets the run recover, and asks the finished model two questions. The last line is the path of the JSON report.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / ".demo"
REPORT = FOLDER / "report.json"
KILL_AFTER_STEP = 36  # the first checkpoint is that of step 30


def main() -> int:
    """Run the demo and return its exit code."""
    started = time.monotonic()
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir()
    say("Making the data: arithmetic word problems, each with its worked solution")
    python("examples/data/make_arithmetic.py", "--rows", "3000", "--output", FOLDER / "arithmetic.jsonl")
    say("Making the model: a tiny Llama with random weights, and a tokenizer trained on the data")
    python("examples/demo/make_model.py", "--data", FOLDER / "arithmetic.jsonl", "--output", FOLDER / "model")
    say("finetune run -f examples/demo/job.yaml")
    threading.Thread(target=kill_one_rank, daemon=True).start()
    finetune = [sys.executable, "-m", "finetune_operator.cli.main", "run", "-f", "examples/demo/job.yaml"]
    subprocess.run([*finetune, "--folder", FOLDER / "runs", "--report", REPORT], cwd=ROOT, check=True)
    report = json.loads(REPORT.read_text())
    check(report)
    say("Two answers of the finished model")
    python(
        "examples/demo/generate.py",
        "--model",
        FOLDER / "output",
        "--data",
        FOLDER / "arithmetic.jsonl",
        "--answers",
        "2",
    )
    first, last = report["metrics"]["first_loss"], report["metrics"]["final_loss"]
    say(
        f"Loss {first:.3f} → {last:.3f} in {time.monotonic() - started:.0f} s, one process killed and recovered on the way"
    )
    print(REPORT)
    return 0


def check(report: dict[str, object]) -> None:
    """Fail loudly when the demo did not show what it is there to show."""
    losses = [entry["loss"] for entry in report["losses"]]
    assert report["metrics"]["attempts"] >= 2, "one rank was to be killed and the job to recover"
    assert report["measured"]["resumedFromSteps"], "the next attempt was to resume from a verified checkpoint"
    assert losses[-1] <= losses[0] / 2, f"the loss was to fall by half: {losses[0]} -> {losses[-1]}"
    assert report["artifact"]["files"], "a model was to be published"


def kill_one_rank() -> None:
    """End rank 1 with SIGKILL once a checkpoint is verified and a few more steps were made."""
    while True:
        time.sleep(0.05)
        for path in FOLDER.glob("runs/*/events.jsonl"):
            events = [json.loads(line) for line in path.read_text().splitlines() if line.endswith("}")]
            verified = any(e["event"] == "checkpoint" and e["verified"] for e in events)
            if verified and any(e["event"] == "step" and e["step"] >= KILL_AFTER_STEP for e in events):
                for pid in processes_of_rank(1, path):
                    os.kill(pid, signal.SIGKILL)
                say("Killed rank 1 (kill -9)")
                return


def processes_of_rank(rank: int, events: Path) -> list[int]:
    """Return the processes of this run whose environment says that they are that rank."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            environment = (entry / "environ").read_bytes().split(b"\0")
        except OSError:  # ended, or not ours
            continue
        if f"RANK={rank}".encode() in environment and f"FINETUNE_RUN_EVENTS={events}".encode() in environment:
            found.append(int(entry.name))
    return found


def python(script: str, *arguments: object) -> None:
    """Run one of the repository's scripts."""
    subprocess.run([sys.executable, ROOT / script, *map(str, arguments)], cwd=ROOT, check=True)


def say(text: str) -> None:
    """Print a heading."""
    print(f"\n\033[1m{text}\033[0m", flush=True)


if __name__ == "__main__":
    sys.exit(main())
