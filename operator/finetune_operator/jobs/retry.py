"""What follows a failed attempt: the one retry policy, for the cluster and for `finetune run`.

The judgement of each exit code (does another try help, is it charged) is the table in `api.exit_codes`; here stands only what is counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from finetune_operator.api.exit_codes import meaning_of
from finetune_operator.api.progress import MemoryShortage, TerminationMessage
from finetune_operator.api.reasons import REASON_MEANINGS, Reason

FIRST_DELAY_SECONDS: Final = 10.0
LONGEST_DELAY_SECONDS: Final = 300.0


@dataclass(frozen=True)
class Cause:
    """Why an attempt ended: its first cause in time."""

    reason: Reason
    message: str
    exit_code: int | None
    retry: bool
    """Another try of the same thing can succeed."""
    charged: bool
    """It counts against `run.retries`."""
    step: int | None = None
    log_uri: str | None = None
    memory_shortage: MemoryShortage | None = None

    @property
    def sentence(self) -> str:
        """The message, to be followed by another sentence; exit messages of pods come with and without a full stop."""
        return f"{self.message.rstrip('. ')}."


@dataclass(frozen=True)
class Retry:
    """Another attempt follows, from the newest verified checkpoint."""

    inspect_again: bool = False
    """Model or data changed: they are inspected and planned anew first."""
    replan: bool = False
    """A GPU ran out of memory: the next plan takes less, or there is none and the job fails."""


@dataclass(frozen=True)
class GiveUp:
    """No other attempt follows."""

    reason: Reason
    message: str


def cause_of_message(message: TerminationMessage) -> Cause:
    """Return the cause that a container of ours has named itself."""
    meaning = meaning_of(message.exit_code)
    return Cause(
        reason=message.reason,
        message=message.message,
        exit_code=message.exit_code,
        retry=meaning.retry,
        charged=meaning.charged,
        step=message.step,
        log_uri=message.log_uri,
        memory_shortage=message.memory_shortage,
    )


def next_after_failure(failures: Sequence[TerminationMessage], retries: int) -> Retry | GiveUp:
    """Return what follows the last of these failed attempts, oldest first, when `run.retries` is `retries`."""
    causes = [cause_of_message(failure) for failure in failures]
    return judge(causes[-1], charged=sum(cause.charged for cause in causes), retries=retries)


def judge(cause: Cause, *, charged: int, retries: int) -> Retry | GiveUp:
    """Return what follows an attempt that ended by `cause`; `charged` failures count in all, this one included."""
    if cause.reason is Reason.GPU_OUT_OF_MEMORY:
        return Retry(replan=True)  # the same plan again would only fail at the same step
    if not cause.retry:
        return GiveUp(cause.reason, f"{cause.sentence} Remedy: {REASON_MEANINGS[cause.reason].remedy}")
    if cause.charged and charged > retries:
        return GiveUp(
            Reason.RETRIES_EXHAUSTED,
            f"{charged} failed attempts, and run.retries allows {retries}; the last one: {cause.reason}: {cause.message}",
        )
    return Retry(inspect_again=cause.reason is Reason.INPUTS_CHANGED)


def delay_before_next(short_lived: int) -> float:
    """Return the seconds to wait before the next attempt, after so many failures in a row that came at once.

    The first is followed at once, since most failures are single events and a minute of idle GPUs costs more than a futile start.
    """
    if short_lived <= 1:
        return 0.0
    return float(min(LONGEST_DELAY_SECONDS, FIRST_DELAY_SECONDS * 2 ** min(short_lived - 2, 10)))
