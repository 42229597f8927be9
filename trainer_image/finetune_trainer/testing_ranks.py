"""Ranks for tests without their imports: one process imports the training stack, then forks the ranks of each case.

Importing takes 12 to 25 s per process, forking some milliseconds; testing_imports.py has what is imported. A case runs exactly what `train`
runs, as torchrun would start it, and `probes` are callbacks by name (testing_probes.py) that look at a rank from inside or kill it.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from finetune_operator.api.compatibility import ZERO_STAGES, Offload
from finetune_operator.api.plan import AttemptFile
from finetune_operator.api.run_events import RUN_EVENT, RUN_EVENTS_VARIABLE, RunEvent, StepEvent
from finetune_trainer.disk_operator import load_operator
from finetune_trainer.rank_files import RunDirectory
from finetune_trainer.testing_extensions import compile_operator, own_extensions
from finetune_trainer.testing_limits import short_limits

CASE_SECONDS: Final = 180.0


@dataclass(frozen=True)
class CaseResult:
    """What came out of one case."""

    statuses: tuple[int, ...]
    """Exit code of each rank; negative, the number of the signal that ended it."""
    folder: Path

    @property
    def events(self) -> list[RunEvent]:
        """The run events, in order."""
        path = self.folder / "events.jsonl"
        return [RUN_EVENT.validate_json(line) for line in path.read_text().splitlines()] if path.exists() else []

    @property
    def processes(self) -> int:
        """How many ranks there were."""
        return len(self.statuses)

    @property
    def losses(self) -> dict[int, float]:
        """The loss of each step."""
        return {event.step: event.loss for event in self.events if isinstance(event, StepEvent)}

    @property
    def run(self) -> RunDirectory:
        """What the ranks wrote for `launch`."""
        return RunDirectory(self.folder / "run")

    def probe(self, name: str, rank: int) -> Any:
        """Return what a probe wrote on a rank."""
        return json.loads((self.folder / f"{name}-{rank}.json").read_text())

    def log(self, rank: int = 0) -> str:
        """Return a rank's log."""
        return (self.folder / f"rank-{rank}.log").read_text(errors="replace")


class RankServer:
    """Starts the process that forks ranks; a context manager. `environment` adds variables, such as another PYTHONHASHSEED."""

    def __init__(self, **environment: str) -> None:
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "HF_HUB_OFFLINE": "1",
            "TOKENIZERS_PARALLELISM": "false",
            "DS_ACCELERATOR": "cpu",
            "TORCH_EXTENSIONS_DIR": str(own_extensions()),
            "TORCH_FR_BUFFER_SIZE": "2000",
            **environment,
            "COMET_DISABLE_AUTO_LOGGING": "1",
        }
        self._process = subprocess.Popen(
            [sys.executable, "-m", "finetune_trainer.testing_ranks"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            text=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process.stdin is not None:
            self._process.stdin.close()
        self._process.wait(60)  # it frees gigabytes, on a machine that may be busy
        if self._process.stdout is not None:
            self._process.stdout.close()

    def call(self, function: str, **arguments: Any) -> Any:
        """Call a function (`module:name`) in a fork of the process and return its result as JSON."""
        answer = self._ask({"call": function, "arguments": arguments})
        if "error" in answer:
            raise AssertionError(answer["error"])
        return answer["result"]

    def run(
        self,
        attempt: AttemptFile,
        folder: Path,
        *,
        probes: tuple[str, ...] = (),
        environment: dict[str, str] | None = None,
        hang_seconds: float | None = None,
        upload_seconds: float | None = None,
        case_seconds: float = CASE_SECONDS,
    ) -> CaseResult:
        """Run all ranks of an attempt (of one pod) in `folder` and return how they ended; the seconds are those of testing_limits.py."""
        folder.mkdir(parents=True, exist_ok=True)
        plan = folder / "plan.json"
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        plan.write_text(attempt.model_dump_json(by_alias=True))
        variables = {
            "FINETUNE_WORK_DIRECTORY": str(folder / "work"),
            "FINETUNE_RUN_DIRECTORY": str(folder / "run"),
            RUN_EVENTS_VARIABLE: str(folder / "events.jsonl"),
            "FINETUNE_TEST_FOLDER": str(folder),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
            **(environment or {}),
        }
        answer = self._ask(
            {
                "plan": str(plan),
                "ranks": attempt.plan.processes,
                "compiles": attempt.plan.strategy in ZERO_STAGES,
                "swaps": attempt.plan.offload is Offload.NVME,
                "probes": probes,
                "variables": variables,
                "folder": str(folder),
                "hang_seconds": hang_seconds,
                "upload_seconds": upload_seconds,
                "case_seconds": case_seconds,
            }
        )
        return CaseResult(tuple(answer["statuses"]), folder)

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        if self._process.stdin is None or self._process.stdout is None:
            raise AssertionError("the server has pipes")
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise AssertionError("the process that forks ranks has ended; see its output")
        answer: dict[str, Any] = json.loads(line)
        return answer


def serve() -> None:
    """Import the stack, then fork for every request on standard input."""
    sys.modules |= dict.fromkeys(("wandb", "mlflow"))  # type: ignore[arg-type] # as `train` does: trackers.py
    from finetune_trainer.testing_imports import import_everything

    import_everything()
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print must not be taken for an answer
    for line in sys.stdin:
        request = json.loads(line)
        if request.get("compiles"):
            compile_operator()
        if request.get("swaps"):
            load_operator()
        answer = _call(request) if "call" in request else {"statuses": _run_case(request)}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def _run_case(request: dict[str, Any]) -> list[int]:
    processes = [_fork(request, rank) for rank in range(request["ranks"])]
    statuses: dict[int, int] = {}
    deadline = time.monotonic() + request["case_seconds"]
    while len(statuses) < len(processes):
        for process in processes:
            done, status = (0, 0) if process in statuses else os.waitpid(process, os.WNOHANG)
            if done:
                statuses[process] = os.waitstatus_to_exitcode(status)
        if time.monotonic() > deadline:
            for process in set(processes) - statuses.keys():
                os.kill(process, signal.SIGKILL)
        time.sleep(0.02)
    return [statuses[process] for process in processes]


def _fork(request: dict[str, Any], rank: int) -> int:
    process = os.fork()
    if process:
        return process
    code = 1
    try:
        os.environ.update(request["variables"])
        ranks = request["ranks"]
        if ranks > 1:
            place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": ranks, "LOCAL_WORLD_SIZE": ranks}
            os.environ.update({name: str(value) for name, value in place.items()})
        log = os.open(f"{request['folder']}/rank-{rank}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1)
        os.dup2(log, 2)
        from finetune_trainer.testing_probes import make_probe
        from finetune_trainer.train import run_rank

        limits = short_limits(request["hang_seconds"], request["upload_seconds"], until_then=request["case_seconds"])
        probes = [make_probe(name, rank) for name in request["probes"]]
        code = run_rank(Path(request["plan"]), observers=probes, limits=limits)
    finally:
        sys.stdout.flush()
        os._exit(code)


def _call(request: dict[str, Any]) -> dict[str, Any]:
    """Call a function in a fork, so that what it leaves behind cannot reach the next case."""
    reader, writer = os.pipe()
    process = os.fork()
    if process == 0:
        import importlib
        import traceback

        module, _, name = request["call"].partition(":")
        try:
            arguments = {
                key: Path(value) if isinstance(value, str) and value.startswith("/") else value
                for key, value in request["arguments"].items()
            }
            answer = {"result": getattr(importlib.import_module(module), name)(**arguments)}
            answer = json.loads(json.dumps(answer, default=str))
        except BaseException:
            answer = {"error": traceback.format_exc()}
        with os.fdopen(writer, "w") as file:
            file.write(json.dumps(answer))
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as file:
        text = file.read()
    os.waitpid(process, 0)
    answered: dict[str, Any] = json.loads(text) if text else {"error": "the process died"}
    return answered


if __name__ == "__main__":
    serve()
