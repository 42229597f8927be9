"""The process of a training pod: starts the ranks, passes SIGTERM on, and says afterwards how they ended and why.

torchrun exits 1 whatever a rank said. So this process reads what the ranks and their parent wrote, takes the first cause in time, keeps the
last lines of every rank's log in the bucket, writes one JSON line to the termination log and exits with the cause's code. It imports no torch.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

from finetune_operator.api.constants import TERMINATION_LOG, TERMINATION_LOG_VARIABLE
from finetune_operator.api.exit_codes import ExitCode
from finetune_operator.api.plan import AttemptFile
from finetune_operator.api.progress import TerminationMessage
from finetune_operator.api.reasons import Reason
from finetune_trainer.attempt import Workplace, read_attempt
from finetune_trainer.causes import Cause, cause_of_evaluation, first_cause
from finetune_trainer.child_process import die_with_parent, start
from finetune_trainer.failures import TrainerFailure, calls_of, failure_of
from finetune_trainer.hang_watch import HangWatch
from finetune_trainer.kept_logs import EVALUATION_LOG, aborted_for_a_peer, keep_logs
from finetune_trainer.network import ROUTES, default_interface
from finetune_trainer.rank_environment import rank_environment
from finetune_trainer.rank_files import RankDeath

INDEX_VARIABLE: Final = "JOB_COMPLETION_INDEX"
JOIN_SECONDS: Final = 24 * 3600
"""How long pods wait for one another: a peer may be Pending for hours, and the run's deadline and the operator end the wait earlier."""
_MEMORY_EVENTS: Final = tuple(map(Path, ("/sys/fs/cgroup/memory.events", "/sys/fs/cgroup/memory/memory.oom_control")))
"""Where the kernel counts the processes that it has killed: in version 2 and version 1 of its control groups."""


def launch(plan_path: Path) -> int:
    """Run one pod's ranks of the attempt and return the exit code of the pod."""
    stop = _Stop()
    try:
        attempt = read_attempt(plan_path)
    except TrainerFailure as error:
        return _conclude(Cause(error.exit_code, error.reason, str(error)))
    place = Workplace.of(attempt)
    for left in (place.run.path, place.staging, place.tracking):
        shutil.rmtree(left, ignore_errors=True)
    place.run.logs.mkdir(parents=True)
    index = int(os.environ.get(INDEX_VARIABLE, "0"))
    if attempt.spec.trainer is not None:
        from finetune_trainer.script_process import run_script

        return _conclude(run_script(attempt, plan_path, place, index, stop), attempt, place)
    try:
        if attempt.plan.pods > 1:
            wait_for_host(attempt.rendezvous_host, JOIN_SECONDS, stopped=lambda: stop.requested)
        cause = _train_and_evaluate(attempt, plan_path, place, index, stop)
    except (TrainerFailure, OSError) as error:
        failure = failure_of(error)
        if failure.exit_code is ExitCode.BUG:
            print(calls_of(error), flush=True)
        return _conclude(Cause(failure.exit_code, failure.reason, failure.message))
    log_uri = keep_logs(attempt, place.run, index, cause) if cause.exit_code is not ExitCode.OK else None
    return _conclude(cause, attempt, place, log_uri)


def _train_and_evaluate(attempt: AttemptFile, plan_path: Path, place: Workplace, index: int, stop: _Stop) -> Cause:
    """Run the pod's ranks, and in the first pod what is measured after them.

    A pod that comes back to an evaluation that was cut short does not load the model onto its GPUs only to see that every step is made: the
    evaluation begins at once. It looks for the final checkpoint itself, and where that is missing or damaged the ranks run as ever. Pods of several
    would have to agree on it, so they always run their ranks.
    """
    evaluates = index == 0 and attempt.spec.is_judged
    if evaluates and attempt.plan.pods == 1 and attempt.reached_step >= attempt.plan.total_steps:
        cause = _evaluate(attempt, plan_path, place, stop)
        if cause.exit_code is not ExitCode.NOT_FOUND:
            return cause
        place.run.forget_errors()
    cause = _train(attempt, plan_path, place, index, stop)
    if not evaluates or cause.exit_code is not ExitCode.OK:
        return cause
    return _evaluate(attempt, plan_path, place, stop)


def _train(attempt: AttemptFile, plan_path: Path, place: Workplace, index: int, stop: _Stop) -> Cause:
    killed_before = killed_for_memory()
    status = _run_ranks(attempt, plan_path, place, index, stop)
    if status == 0:
        return Cause(ExitCode.OK, Reason.SUCCEEDED, "every rank has finished")
    deaths = list(place.run.read_deaths())
    if attempt.plan.processes == 1:
        deaths.append(RankDeath(rank=0, time=time.time(), status=status))
    aborted = aborted_for_a_peer(deaths, place.run, index, attempt.plan.processes_per_pod)
    return first_cause(
        [*place.run.errors(), *aborted],
        deaths,
        terminated=stop.requested,
        host_out_of_memory=killed_for_memory() > killed_before,
        agent_status=status if attempt.plan.processes > 1 else 0,
    )


def wait_for_host(
    host: str,
    seconds: float,
    *,
    stopped: Callable[[], bool],
    resolve: Callable[[str], object] = lambda host: socket.getaddrinfo(host, None),
    pause: Callable[[float], object] = time.sleep,
) -> None:
    """Wait until `host` has an address: a headless Service's name exists only after its pod does."""
    waited = 0.0
    while True:
        if stopped():
            raise TrainerFailure(ExitCode.TERMINATED, f"stopped from outside while waiting for {host}")
        try:
            resolve(host)
            return
        except OSError as error:
            if waited >= seconds:
                raise TrainerFailure(
                    ExitCode.PEER_LOST,
                    f"the first pod's host name {host} was not known after {seconds:.0f} s; is that pod running, and the Service there?",
                ) from error
        delay = min(2.0, 0.2 + waited / 10)
        pause(delay)
        waited += delay


class _Stop:
    """SIGTERM and SIGINT, passed on to the ranks: they agree on a step, save and exit."""

    def __init__(self) -> None:
        self.requested = False
        self._process: subprocess.Popen[bytes] | None = None
        self._rank_processes: Callable[[], list[int]] = list
        self._ranks = 1
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)

    def watch(self, process: subprocess.Popen[bytes], ranks: int, rank_processes: Callable[[], list[int]]) -> None:
        self._process, self._ranks, self._rank_processes = process, ranks, rank_processes
        if self.requested:
            process.terminate()

    def _on_signal(self, number: int, frame: object) -> None:
        self.requested = True
        if self._process is None or self._process.poll() is not None:
            return
        known = self._rank_processes()
        for process in known:
            # Straight to the ranks: torchrun would end them by SIGKILL 30 s later, in the middle of a save.
            try:
                os.kill(process, signal.SIGTERM)
            except ProcessLookupError:
                continue
        if len(known) < self._ranks:
            self._process.terminate()


def _run_ranks(attempt: AttemptFile, plan_path: Path, place: Workplace, index: int, stop: _Stop) -> int:
    environment = rank_environment(
        attempt.plan, place.run, os.environ, interface=default_interface(ROUTES.read_text() if ROUTES.exists() else "")
    )
    command = [sys.executable, "-m", "finetune_trainer"]
    train = ["train", "--plan", str(plan_path)]
    copier: threading.Thread | None = None
    if attempt.plan.processes == 1:
        process, copier = start([*command, *train], environment, place.run.logs / "rank-0.log")
    else:
        agent = [
            *command,
            "agent",
            *torchrun_arguments(attempt, index, place.run.logs),
            "-m",
            "finetune_trainer",
            *train,
        ]
        process = subprocess.Popen(agent, env=environment, start_new_session=True, preexec_fn=die_with_parent)
    watch = HangWatch(
        place.run, lambda: [(state.rank, state.process) for state in place.run.states()], pods=attempt.plan.pods
    ).start()
    stop.watch(process, attempt.plan.processes_per_pod, lambda: [state.process for state in place.run.states()])
    status = process.wait()
    watch.stop()
    if copier is not None:
        copier.join(timeout=5)
    return status


def _evaluate(attempt: AttemptFile, plan_path: Path, place: Workplace, stop: _Stop) -> Cause:
    """Run the evaluation after the training: a process of its own, for what the ranks held of the GPUs is free only when they are gone.

    Without it the attempt is not done: one that is stopped now comes again, or a model would be published that nobody has measured.
    """
    killed_before, status = killed_for_memory(), -signal.SIGTERM
    if not stop.requested:
        command = [sys.executable, "-m", "finetune_trainer", "evaluate", "--plan", str(plan_path)]
        environment = rank_environment(attempt.plan, place.run, os.environ)
        process, copier = start(command, environment, place.run.logs / EVALUATION_LOG)
        stop.watch(process, 1, list)
        status = process.wait()
        copier.join(timeout=5)
    return cause_of_evaluation(
        place.run.errors(),
        status,
        terminated=stop.requested,
        host_out_of_memory=killed_for_memory() > killed_before,
    )


def torchrun_arguments(attempt: AttemptFile, index: int, logs: Path, *, join_seconds: int = JOIN_SECONDS) -> list[str]:
    """Return torchrun's options: a static rendezvous at the first pod, no restart in place (a restart is a new attempt)."""
    return [
        f"--nnodes={attempt.plan.pods}",
        f"--node-rank={index}",
        f"--nproc-per-node={attempt.plan.processes_per_pod}",
        f"--master-addr={attempt.rendezvous_host}",
        f"--master-port={attempt.rendezvous_port}",
        f"--rdzv-conf=timeout={join_seconds}",
        "--max-restarts=0",
        f"--log-dir={logs}",
        "--tee=3",
    ]


def killed_for_memory(files: Iterable[Path] = _MEMORY_EVENTS) -> int:
    """Return how many processes of this container the kernel has killed for memory."""
    lines: list[str] = []
    for path in files:
        with contextlib.suppress(OSError):  # only one of the versions is there
            lines += path.read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("oom_kill "))


def _conclude(
    cause: Cause, attempt: AttemptFile | None = None, place: Workplace | None = None, log_uri: str | None = None
) -> int:
    states = place.run.states() if place else ()
    steps = [state.step for state in states if state.step is not None]
    saved = [state.checkpoint_step for state in states if state.checkpoint_step is not None]
    peaks = [state.peak_memory_bytes for state in states if state.peak_memory_bytes is not None]
    evaluated = place.run.evaluated() if place else None
    if evaluated is not None:  # by a pod that had no step to make
        steps, saved = [*steps, evaluated.step], [*saved, evaluated.step]
    message = TerminationMessage(
        reason=cause.reason,
        exit_code=cause.exit_code,
        message=cause.message,
        step=cause.step if cause.step is not None else max(steps, default=None),
        rank=cause.rank,
        checkpoint_step=max(saved, default=None),
        peak_memory_bytes=max(peaks, default=None),
        memory_shortage=cause.memory_shortage,
        time=states[0].time if states else None,
        log_uri=log_uri,
        evaluation=evaluated,
    )
    write_termination(message)
    return int(cause.exit_code)


def write_termination(message: TerminationMessage) -> None:
    """Write the line that the kubelet shows as the container's last word, and to the log as well."""
    line = message.to_line()
    print(line, flush=True)
    path = Path(os.environ.get(TERMINATION_LOG_VARIABLE, TERMINATION_LOG))
    try:
        path.write_text(line + "\n")
    except OSError as error:
        print(f"the termination log {path} cannot be written: {error.strerror}", file=sys.stderr, flush=True)
