"""What the trainer costs beside TRL alone: `python bench/trainer.py [--runs 5] [--steps 12]`; prints JSON.

Both train the same small model on the same rows with the same settings, once with LoRA and once all weights: one process on the CPU, and nothing
saved on the way. Ours is `finetune_trainer launch` as a pod starts it, without the probe; the other is bench/plain/trl_sft.py, which encodes
its rows itself.

- `first_step_ratio`: from the start of the process to its first finished step, one process after the other.
- `step_time_ratio`: one step. Then both are alive and take turns step by step, the other one stopped (SIGSTOP), so that a busy moment of the
  machine hits both alike. A run's figure is the median over pairs of steps; the first pair, which meets cold caches, is left out.

Both find byte code, as in the image: a first run of each, which is not counted, compiles it into a folder of its own. (With
PYTHONDONTWRITEBYTECODE, as in many containers, every start compiles all libraries anew.) Each figure is the median over runs, ours by the other's;
`_cpu_ratio` is the same of the CPU seconds of all threads, which other programs on the machine disturb less. `largest_loss_difference` compares the
losses step by step: 0 shows that both were given the same work. Each run is told on standard error when it is done.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, Self

from finetune_operator.api.constants import TERMINATION_LOG_VARIABLE, WORK_DIRECTORY_VARIABLE
from finetune_operator.api.plan import AttemptFile
from finetune_operator.api.run_events import RUN_EVENTS_VARIABLE
from finetune_trainer.arguments import adapter_settings, training_arguments, weights_dtype
from finetune_trainer.objectives.recipe import CAUSAL
from finetune_trainer.objectives.supervised import supervised_arguments
from finetune_trainer.testing import arithmetic_rows, tiny_attempt, tiny_plan, write_rows, write_tiny_model

ROWS: Final = 512
BATCH: Final = 16
HIDDEN: Final = 256
LAYERS: Final = 6
"""A step is long enough for a ratio and not so long that what the trainer adds to it is hidden."""
PLAIN: Final = Path(__file__).parent / "plain" / "trl_sft.py"
OWN_WAYS: Final = ("output_dir", "dataset_kwargs", "packing", "save_only_model", "use_cpu", "push_to_hub")
"""Arguments that a script says otherwise, or need not say."""


@dataclasses.dataclass(frozen=True)
class Spent:
    """Seconds of one stretch: on the wall, and of the CPU by all threads."""

    wall: float
    cpu: float


class Program:
    """One of the two, with a pipe in which its steps arrive."""

    def __init__(self, command: Sequence[str], events: Path, log: Path, environment: dict[str, str]) -> None:
        os.mkfifo(events)
        self._pipe = os.fdopen(
            os.open(events, os.O_RDWR), encoding="utf-8"
        )  # open for writing too: no end of file between two steps
        self._log = log
        self._started = time.monotonic()
        with log.open("wb") as file:
            self._process = subprocess.Popen(command, env=environment, stdout=file, stderr=file)
        self.losses: list[float] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        for process in reversed(self._family()):
            os.kill(process, signal.SIGKILL)
        self._process.wait()
        self._pipe.close()

    def first_step(self) -> Spent:
        """Wait for the first step and stop."""
        self._wait()
        spent = Spent(time.monotonic() - self._started, self._cpu())
        self._tell(signal.SIGSTOP)
        return spent

    def step(self) -> Spent:
        """Go on for one step and stop again."""
        started, cpu = time.monotonic(), self._cpu()
        self._tell(signal.SIGCONT)
        self._wait()
        wall = time.monotonic() - started
        self._tell(signal.SIGSTOP)
        return Spent(wall, self._cpu() - cpu)

    def _wait(self) -> None:
        """Read until a step is told."""
        while True:
            if self._process.poll() is not None:
                raise SystemExit(f"{self._process.args!r} ended early:\n{self._log.read_text()}")
            event = json.loads(self._pipe.readline())
            if event["event"] == "step":
                self.losses.append(event["loss"])
                return

    def _tell(self, number: signal.Signals) -> None:
        for process in self._family():
            os.kill(process, number)

    def _family(self) -> list[int]:
        family = [self._process.pid]
        for process in family:
            family += _children(process)
        return family

    def _cpu(self) -> float:
        """Return the CPU seconds of all threads, those that have ended too."""
        return sum(time.clock_gettime(_cpu_clock(process)) + _ended_children(process) for process in self._family())


def _cpu_clock(process: int) -> int:
    """Return the number of a process's CPU clock (clock_getcpuclockid(3)); it counts nanoseconds, /proc/PID/stat hundredths of a second."""
    return (~process << 3) | 2


def _ended_children(process: int) -> float:
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[13]) + int(fields[14])) / os.sysconf("SC_CLK_TCK")


def _children(process: int) -> list[int]:
    found = []
    for thread in Path(f"/proc/{process}/task").iterdir():
        found += [int(child) for child in (thread / "children").read_text().split()]
    return found


def ours(attempt: AttemptFile, folder: Path) -> Program:
    """Start the trainer as a pod does."""
    folder.mkdir(parents=True)
    plan, events = folder / "plan.json", folder / "events"
    plan.write_text(attempt.model_dump_json(by_alias=True, exclude_none=True))
    variables = {
        RUN_EVENTS_VARIABLE: str(events),
        TERMINATION_LOG_VARIABLE: str(folder / "termination"),
        WORK_DIRECTORY_VARIABLE: str(folder / "work"),
    }
    command = [sys.executable, "-m", "finetune_trainer", "launch", "--plan", str(plan)]
    return Program(command, events, folder / "log", {**os.environ, **variables})


def plain(attempt: AttemptFile, folder: Path) -> Program:
    """Start the script on the same job."""
    folder.mkdir(parents=True)
    settings, events = folder / "settings.json", folder / "events"
    settings.write_text(json.dumps(plain_settings(attempt, folder) | {"events": str(events)}))
    environment = {**os.environ, "HF_DATASETS_CACHE": str(folder / "cache"), "CUDA_VISIBLE_DEVICES": ""}
    return Program([sys.executable, str(PLAIN), str(settings)], events, folder / "log", environment)


def plain_settings(attempt: AttemptFile, folder: Path) -> dict[str, Any]:
    """Return what the script needs to know."""
    known = training_arguments(attempt, folder / "output") | supervised_arguments(attempt)
    arguments = {name: value for name, value in known.items() if name not in OWN_WAYS}
    return {
        "model": attempt.spec.model.uri.removeprefix("file://"),
        "data": attempt.spec.data_uri.removeprefix("file://"),
        "dtype": weights_dtype(attempt),
        "lora": (adapter_settings(attempt, CAUSAL.task_type) or (None, None))[1],
        "arguments": {**arguments, "output_dir": str(folder / "output"), "assistant_only_loss": True, "use_cpu": True},
    }


@dataclasses.dataclass(frozen=True)
class Pair:
    """The same stretch of both."""

    ours: Spent
    plain: Spent


@dataclasses.dataclass(frozen=True)
class Run:
    """One run of both: the way to the first step, the steps after it in turns, and how far the losses differ."""

    first: Pair
    steps: tuple[Pair, ...]
    loss_difference: float


def run(attempt: AttemptFile, folder: Path, steps: int, *, plain_first: bool) -> Run:
    """Start one after the other, then let them take turns."""
    with contextlib.ExitStack() as stack:
        alive: dict[str, Program] = {}
        first: dict[str, Spent] = {}
        for make in (plain, ours) if plain_first else (ours, plain):
            name = make.__name__
            alive[name] = stack.enter_context(make(attempt, folder / name))
            first[name] = alive[name].first_step()
        turns = [{name: program.step() for name, program in alive.items()} for _ in range(steps)]
    losses = (program.losses for program in alive.values())
    return Run(
        first=Pair(**first),
        steps=tuple(Pair(**turn) for turn in turns[1:]),
        loss_difference=max(abs(one - other) for one, other in zip(*losses, strict=True)),
    )


def figures(runs: Sequence[Run]) -> dict[str, float]:
    """Return the medians over runs; a run's step is its median pair."""
    return {
        **_ratios("first_step", [[each.first] for each in runs]),
        **_ratios("step_time", [each.steps for each in runs]),
        "largest_loss_difference": max(each.loss_difference for each in runs),
    }


def _ratios(name: str, runs: Sequence[Sequence[Pair]]) -> dict[str, float]:
    def over_runs(value: Callable[[Pair], float]) -> float:
        return round(statistics.median(statistics.median(value(pair) for pair in pairs) for pairs in runs), 3)

    return {
        f"{name}_ratio": over_runs(lambda pair: pair.ours.wall / pair.plain.wall),
        f"{name}_cpu_ratio": over_runs(lambda pair: pair.ours.cpu / pair.plain.cpu),
        f"{name}_seconds": over_runs(lambda pair: pair.ours.wall),
        f"{name}_seconds_plain": over_runs(lambda pair: pair.plain.wall),
        f"{name}_cpu_seconds": over_runs(lambda pair: pair.ours.cpu),
        f"{name}_cpu_seconds_plain": over_runs(lambda pair: pair.plain.cpu),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--steps", type=int, default=12, help="steps of each program after its first one")
    parser.add_argument("--method", choices=("lora", "full"), help="only this one")
    options = parser.parse_args()
    # Threads that wait for one another make a step's time a matter of the machine's other work.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    # A stopped process that is left behind would never end.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    report: dict[str, object] = {"runs": options.runs, "steps": options.steps, "load_before": os.getloadavg()[0]}
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
        os.environ["PYTHONPYCACHEPREFIX"] = str(root / "bytecode")
        rows = arithmetic_rows(ROWS)
        data = write_rows(root / "rows.jsonl", rows)
        model = write_tiny_model(root / "model", rows, hidden=HIDDEN, layers=LAYERS)
        for method in (options.method,) if options.method else ("lora", "full"):
            plan = tiny_plan(micro_batch_size=BATCH, total_steps=10 * options.steps, rows=ROWS)
            attempt = tiny_attempt(
                model,
                data,
                root / "output",
                plan=plan,
                tuning={"method": method},
                resources={"probe": False},
            )
            run(attempt, root / method / "compiling", 0, plain_first=False)
            runs = []
            for number in range(options.runs):
                runs.append(run(attempt, root / method / str(number), options.steps, plain_first=bool(number % 2)))
                print(method, number, json.dumps(figures(runs[-1:])), file=sys.stderr, flush=True)
            report[method] = figures(runs)
    report["load_after"] = os.getloadavg()[0]
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
