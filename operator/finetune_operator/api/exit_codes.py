"""The exit codes of the trainer: an API between pods and operator, also used in the Jobs' podFailurePolicy.

torchrun itself exits 1 whatever a rank said, so `launch` reads each rank's error file and exits with the first cause's code.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from types import MappingProxyType
from typing import Final

from finetune_operator.api.reasons import Reason


class ExitCode(IntEnum):
    """How a container of ours ended."""

    OK = 0
    BUG = 1
    BAD_SPEC = 40
    BAD_DATA = 41
    INPUTS_CHANGED = 42
    NOT_FOUND = 43
    STORAGE_DOWN = 44
    GPU_OUT_OF_MEMORY = 45
    DIVERGED = 46
    HANG = 47
    PEER_LOST = 48
    TERMINATED = 49
    CHECKPOINTS_UNUSABLE = 50
    DISK_FULL = 51
    REQUIREMENT_NOT_MET = 52
    KILLED = 137


@dataclass(frozen=True)
class ExitMeaning:
    """What a code says, which reason the operator shows for it, and whether another try can help."""

    reason: Reason
    meaning: str
    retry: bool
    """Another try of the same thing can succeed."""
    charged: bool
    """A retry of it counts against `run.retries`."""


EXIT_MEANINGS: Final = MappingProxyType(
    {
        ExitCode.OK: ExitMeaning(Reason.SUCCEEDED, "the work is done", retry=False, charged=False),
        ExitCode.BUG: ExitMeaning(
            Reason.TRAINER_ERROR, "an error nobody foresaw; the log has it", retry=True, charged=True
        ),
        ExitCode.BAD_SPEC: ExitMeaning(
            Reason.INVALID_SPEC, "the spec asks for what cannot be done", retry=False, charged=False
        ),
        ExitCode.BAD_DATA: ExitMeaning(
            Reason.INVALID_DATA, "the data set or the model's files are unusable", retry=False, charged=False
        ),
        ExitCode.INPUTS_CHANGED: ExitMeaning(
            Reason.INPUTS_CHANGED,
            "model, data or a reward's function changed since the inspection",
            retry=True,
            charged=False,
        ),
        ExitCode.NOT_FOUND: ExitMeaning(
            Reason.STORAGE_REFUSED,
            "a model, data set, bucket or ConfigMap is not there or refuses us",
            retry=True,
            charged=True,
        ),
        ExitCode.STORAGE_DOWN: ExitMeaning(
            Reason.STORAGE_UNAVAILABLE, "the object store does not answer", retry=True, charged=True
        ),
        ExitCode.GPU_OUT_OF_MEMORY: ExitMeaning(
            Reason.GPU_OUT_OF_MEMORY, "a GPU ran out of memory", retry=True, charged=False
        ),
        ExitCode.DIVERGED: ExitMeaning(
            Reason.DIVERGED,
            "the loss became NaN or infinite, or stays far above what it was",
            retry=False,
            charged=False,
        ),
        ExitCode.HANG: ExitMeaning(Reason.HANG, "no step was finished for too long", retry=True, charged=True),
        ExitCode.PEER_LOST: ExitMeaning(
            Reason.PEER_LOST, "another rank went away (a symptom, not a cause)", retry=True, charged=True
        ),
        ExitCode.TERMINATED: ExitMeaning(
            Reason.TERMINATED, "stopped from outside, after a save where time allowed", retry=True, charged=False
        ),
        ExitCode.CHECKPOINTS_UNUSABLE: ExitMeaning(
            Reason.CHECKPOINTS_UNUSABLE,
            "the job has checkpoints and none of them verifies; nothing was overwritten",
            retry=False,
            charged=False,
        ),
        ExitCode.DISK_FULL: ExitMeaning(
            Reason.DISK_FULL,
            "a pod's local disk is full; the checkpoints in the bucket are whole",
            retry=True,
            charged=True,
        ),
        ExitCode.REQUIREMENT_NOT_MET: ExitMeaning(
            Reason.REQUIREMENT_NOT_MET,
            "publish: the tuned model does not reach what evaluation.require asks",
            retry=False,
            charged=False,
        ),
        ExitCode.KILLED: ExitMeaning(
            Reason.HOST_OUT_OF_MEMORY, "killed, most often for host memory", retry=True, charged=True
        ),
    }
)
"""Every exit code with its meaning. 137 is HostOutOfMemory only when the kubelet says OOMKilled, else RankKilled."""


def meaning_of(code: int) -> ExitMeaning:
    """Return the meaning of any exit code; an unknown one is a bug of ours or of the user's image."""
    try:
        return EXIT_MEANINGS[ExitCode(code)]
    except ValueError:
        return EXIT_MEANINGS[ExitCode.BUG]
