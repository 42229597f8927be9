"""Which of several failures came first and is the cause. Pure: what the ranks and their parent wrote goes in, one cause comes out."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from finetune_operator.api.exit_codes import EXIT_MEANINGS, ExitCode, meaning_of
from finetune_operator.api.progress import MemoryShortage
from finetune_operator.api.reasons import Reason
from finetune_trainer.rank_files import RankDeath, RankError

_SYMPTOMS: Final = (ExitCode.PEER_LOST, ExitCode.TERMINATED)
"""What a rank says because something else happened: to another rank, or to the pod."""


@dataclass(frozen=True)
class Cause:
    """Why this pod's ranks ended."""

    exit_code: ExitCode
    reason: Reason
    message: str
    rank: int | None = None
    step: int | None = None
    memory_shortage: MemoryShortage | None = None


def first_cause(
    errors: Sequence[RankError],
    deaths: Sequence[RankDeath],
    *,
    terminated: bool,
    host_out_of_memory: bool,
    agent_status: int = 0,
) -> Cause:
    """Return the first cause in time.

    A lost peer is a symptom and only the cause when nothing else is known. A rank that wrote no error and was killed by a signal is known
    from its parent alone, whose clock has whole seconds: it goes before symptoms of any time.

    Args:
        errors: What ranks wrote.
        deaths: How ranks ended, as their parent saw it.
        terminated: The pod itself was told to stop, so that a rank killed afterwards is no new cause.
        host_out_of_memory: The kernel killed a process of this container for memory.
        agent_status: How torchrun ended, which tells of the ranks' deaths unless it was killed itself; 0 without one.
    """
    spoken = {error.rank for error in errors}
    candidates = [(error.time, _of_error(error)) for error in errors]
    candidates += [
        (death.time, _of_death(death, terminated=terminated, host_out_of_memory=host_out_of_memory))
        for death in deaths
        if death.rank not in spoken
    ]
    causes = [candidate for candidate in candidates if candidate[1].exit_code not in _SYMPTOMS]
    stops = [candidate for candidate in candidates if candidate[1].exit_code is ExitCode.TERMINATED]
    for group in (causes, stops, candidates):
        if group:
            return min(group, key=lambda candidate: candidate[0])[1]
    if terminated:
        return Cause(ExitCode.TERMINATED, Reason.TERMINATED, "stopped from outside before a step was finished")
    if host_out_of_memory:  # their parent was killed with them
        return Cause(
            ExitCode.KILLED,
            Reason.HOST_OUT_OF_MEMORY,
            "the kernel killed the ranks' parent because the memory was used up",
        )
    if agent_status == -signal.SIGKILL:
        return Cause(ExitCode.KILLED, Reason.RANK_KILLED, "the ranks' parent (torchrun) was killed by SIGKILL")
    return Cause(ExitCode.BUG, Reason.TRAINER_ERROR, "the ranks ended without a word; see the log")


def cause_of_evaluation(
    errors: Sequence[RankError], status: int, *, terminated: bool, host_out_of_memory: bool
) -> Cause:
    """Return how the evaluation after the training ended, whose ranks had all finished.

    Args:
        errors: What it wrote.
        status: Its exit code; negative, the number of the signal that ended it.
        terminated: The pod itself was told to stop.
        host_out_of_memory: The kernel killed a process of this container for memory.
    """
    if status == 0:
        return Cause(ExitCode.OK, Reason.SUCCEEDED, "every rank has finished, and the model is evaluated")
    if errors and not terminated:
        return replace(_of_error(errors[0]), rank=None)
    kept = "the trained model is in the bucket, and the next attempt evaluates it"
    if terminated or status == -signal.SIGTERM:
        said = f"stopped from outside before the model was evaluated; {kept}"
        return Cause(ExitCode.TERMINATED, Reason.TERMINATED, said)
    if status == -signal.SIGKILL:
        reason = Reason.HOST_OUT_OF_MEMORY if host_out_of_memory else Reason.RANK_KILLED
        who = "by the kernel because the container's memory was used up" if host_out_of_memory else "by SIGKILL"
        return Cause(ExitCode.KILLED, reason, f"the evaluation after the training was killed {who}; {kept}")
    how = f"crashed with {signal.Signals(-status).name}" if status < 0 else f"exited with {status} and no word"
    return Cause(ExitCode.BUG, Reason.TRAINER_ERROR, f"the evaluation after the training {how}; {kept}; see the log")


def _of_error(error: RankError) -> Cause:
    return Cause(error.exit_code, error.reason, error.message, error.rank, error.step, error.memory_shortage)


def _of_death(death: RankDeath, *, terminated: bool, host_out_of_memory: bool) -> Cause:
    if death.status in EXIT_MEANINGS and death.status >= ExitCode.BAD_SPEC:
        meaning = meaning_of(death.status)
        return Cause(ExitCode(death.status), meaning.reason, f"rank {death.rank}: {meaning.meaning}", death.rank)
    if death.status >= 0:
        return Cause(
            ExitCode.BUG, Reason.TRAINER_ERROR, f"rank {death.rank} exited with {death.status} and no word", death.rank
        )
    name = signal.Signals(-death.status).name
    if terminated or death.status == -signal.SIGTERM:
        return Cause(
            ExitCode.TERMINATED,
            Reason.TERMINATED,
            f"rank {death.rank} was stopped by {name} before it saved",
            death.rank,
        )
    if death.status == -signal.SIGKILL and host_out_of_memory:
        return Cause(
            ExitCode.KILLED,
            Reason.HOST_OUT_OF_MEMORY,
            f"the kernel killed rank {death.rank} because the container's memory was used up",
            death.rank,
        )
    if death.status == -signal.SIGKILL:
        return Cause(ExitCode.KILLED, Reason.RANK_KILLED, f"rank {death.rank} was killed by {name}", death.rank)
    return Cause(ExitCode.BUG, Reason.TRAINER_ERROR, f"rank {death.rank} crashed with {name}; see the log", death.rank)
