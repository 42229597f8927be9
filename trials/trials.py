"""Trials on real data, each the real way of a job on this machine: inspection, plan, trainer, publication.

`make trials`, or
    python trials/trials.py --data ../shared/data/gsm8k [--only sft dpo]

Prints a table and one line of JSON, and leaves .trials/report.md with the curves. The model is made here: tiny, of random weights, with a tokenizer
trained on the data, so that nothing is downloaded. What the figures show is that each objective's own number moves as it should, not how well a
large model would do.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import mean, variance
from typing import Any, Final

from chart import chart, smoothed
from gsm8k import JUDGED_FILE, SOLUTIONS_FILE, prepare

SURE: Final = 3.0
"""Standard errors by which the last third of a curve must differ from its first tenth; of 60 steps chance does that once in about 100 runs."""
ROOT: Final = Path(__file__).resolve().parents[1]
FOLDER: Final = ROOT / ".trials"
DATA: Final = ROOT.parent / "shared" / "data" / "gsm8k"


@dataclass(frozen=True)
class Trial:
    """One manifest, and the numbers that it is looked at by."""

    name: str
    curves: Sequence[str]
    """`loss` or measures of a step, the first one deciding."""
    held_out: Sequence[str] = ()
    """The same of the held-out rows."""
    rises: bool = True
    """Whether the first curve is to rise, or to fall."""


TRIALS: Final = (
    Trial("sft", ("loss", "token_accuracy"), ("loss", "token_accuracy"), rises=False),
    Trial("dpo", ("reward_margin", "reward_accuracy", "loss"), ("loss", "reward_margin", "reward_accuracy")),
    Trial("reward", ("reward_accuracy", "reward_margin", "loss"), ("loss", "reward_margin", "reward_accuracy")),
    Trial(
        "grpo",
        (
            "reward_mean",
            "reward_mean:exact-number",
            "reward_mean:numeric-closeness",
            "reward_mean:answer-format",
            "kl",
            "completion_length",
        ),
    ),
)


def curve(events: Sequence[Mapping[str, Any]], kind: str, name: str) -> list[float]:
    """Return the values of a number in the events of a kind, in order."""
    found = (event.get(name, event.get("measures", {}).get(name)) for event in events if event["event"] == kind)
    return [float(value) for value in found if value is not None]


def ends(values: Sequence[float]) -> tuple[float, float]:
    """Return the means of the first and of the last tenth."""
    parts = smoothed(values, 10)
    return parts[0], parts[-1]


def errors_apart(values: Sequence[float]) -> float:
    """Return by how many standard errors the mean of the last third lies above that of the first tenth: steps differ by their rows, one says little.

    The beginning is a tenth, for what is learned quickly is learned within the first third. 0.0 where there are too few steps to say anything.
    """
    first, last = values[: len(values) // 10], values[-(len(values) // 3) :]
    if len(first) < 2:
        return 0.0
    error = math.sqrt(variance(first) / len(first) + variance(last) / len(last))
    return (mean(last) - mean(first)) / max(error, 1e-9)


def run(trial: Trial) -> dict[str, Any]:
    """Run a trial by `finetune run` and return what it was seen to do."""
    started = time.monotonic()
    report = FOLDER / f"{trial.name}.json"
    command = [sys.executable, "-m", "finetune_operator.cli.main", "run", "-f", f"trials/{trial.name}.yaml"]
    subprocess.run([*command, "--folder", FOLDER / "runs", "--report", report], cwd=ROOT, check=True)
    # A changed manifest is another run, beside the older one.
    path = max((FOLDER / "runs").glob(f"trial-{trial.name}-*/events.jsonl"), key=lambda found: found.stat().st_mtime)
    events = [json.loads(line) for line in path.read_text().splitlines()]
    steps = {name: values for name in trial.curves if (values := curve(events, "step", name))}
    held_out = {name: values for name in trial.held_out if (values := curve(events, "evaluation", name))}
    apart = errors_apart(steps[trial.curves[0]])
    artifact = json.loads(report.read_text())["artifact"]
    return {
        "trial": trial.name,
        "seconds": round(time.monotonic() - started, 1),
        "steps": max(event["step"] for event in events if event["event"] == "step"),
        "standard_errors": round(apart, 1),
        "moved": (apart if trial.rises else -apart) > SURE,
        "published": len(artifact["files"]),
        "curves": {
            name: {"first_tenth": ends(v)[0], "last_tenth": ends(v)[1], "values": v} for name, v in steps.items()
        },
        "held_out": {name: {"first": v[0], "last": v[-1], "values": v} for name, v in held_out.items()},
    }


def table(results: Sequence[Mapping[str, Any]]) -> str:
    """Return the figures of all trials as a Markdown table."""
    lines = [
        "| trial | steps | seconds | number | first tenth | last tenth | held out, first | held out, last |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for result in results:
        for name, seen in result["curves"].items():
            held = result["held_out"].get(name)
            sides = (f"{held['first']:.4g}", f"{held['last']:.4g}") if held else ("", "")
            figures = (f"{seen['first_tenth']:.4g}", f"{seen['last_tenth']:.4g}", *sides)
            lines.append(
                f"| {result['trial']} | {result['steps']} | {result['seconds']:.0f} | {name} | {' | '.join(figures)} |"
            )
    return "\n".join(lines)


def verdicts(results: Sequence[Mapping[str, Any]]) -> str:
    """Return a line for each trial: whether its number has moved as it should."""
    return "\n".join(
        f"- {result['trial']}: {next(iter(result['curves']))} {'moved as it should' if result['moved'] else 'DID NOT MOVE as it should'} "
        f"(last third against first tenth: {result['standard_errors']:+.1f} standard errors)"
        for result in results
    )


def report_of(results: Sequence[Mapping[str, Any]], counts: Mapping[str, int], machine: str) -> str:
    """Return the report: the table, what moved, then every curve."""
    parts = [
        "# Trials on GSM8K",
        "",
        machine,
        "",
        ", ".join(f"{name}: {count} rows" for name, count in counts.items()),
        "",
        table(results),
        "",
        verdicts(results),
    ]
    for result in results:
        for name, seen in result["curves"].items():
            parts += [
                "",
                f"## {result['trial']}: {name}, step 1 to {result['steps']}",
                "",
                "```",
                chart(seen["values"]),
                "```",
            ]
    return "\n".join(parts) + "\n"


def main() -> int:
    """Run the trials and return the exit code: 1 where one's number did not move as it should."""
    parser = argparse.ArgumentParser(description="Trials of the objectives on GSM8K, on a tiny model made here.")
    parser.add_argument("--data", type=Path, default=DATA, help="folder with GSM8K (default: ../shared/data/gsm8k)")
    parser.add_argument("--only", nargs="+", choices=[trial.name for trial in TRIALS], help="some of the trials")
    options = parser.parse_args()
    missing = [name for name in (SOLUTIONS_FILE, JUDGED_FILE) if not (options.data / name).exists()]
    if missing:
        print(
            f"NOT RUN: {', '.join(missing)} of GSM8K are not here ({options.data}); name their folder with --data (make trials DATA=…)"
        )
        print(json.dumps({"trials": [], "missing": missing}))
        return 0
    wanted = [trial for trial in TRIALS if options.only is None or trial.name in options.only]
    if options.only is None or "sft" in options.only:  # the others start from its result
        shutil.rmtree(FOLDER, ignore_errors=True)
    counts = prepare(options.data, FOLDER / "data")
    if not (FOLDER / "model").exists():
        make = [sys.executable, "examples/demo/make_model.py", "--data", FOLDER / "data" / "solutions.jsonl"]
        subprocess.run([*make, "--output", FOLDER / "model", "--vocabulary", "2048"], cwd=ROOT, check=True)
    results = [run(trial) for trial in wanted]
    machine = (
        f"{datetime.now(UTC):%Y-%m-%d}, {os.cpu_count()} cores, load {os.getloadavg()[2]:.1f} in the last 15 minutes"
    )
    report = report_of(results, counts, machine)
    (FOLDER / "report.md").write_text(report)
    print(report)
    print(json.dumps({"trials": results, "rows": counts}))
    return 0 if all(result["moved"] for result in results) else 1


if __name__ == "__main__":
    sys.exit(main())
