"""The small files by which ranks tell `launch` how far they are and how they ended.

`launch` cannot wait for ranks itself: they are children of torchrun, which exits 1 whatever a rank said. Files also outlive a SIGKILL.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from finetune_operator.api.evaluated import Evaluated
from finetune_operator.api.exit_codes import ExitCode
from finetune_operator.api.progress import MemoryShortage, TrainerStatus
from finetune_operator.api.reasons import Reason
from finetune_operator.api.time_spent import TimeSpent

_T = TypeVar("_T", bound=BaseModel)

RUN_DIRECTORY_VARIABLE: Final = "FINETUNE_RUN_DIRECTORY"


class RankState(BaseModel):
    """How far a rank is; written at its start, at most once a second while it trains, and at its end."""

    model_config = ConfigDict(frozen=True)

    rank: int
    process: int
    """Its process id, so that `launch` can pass SIGTERM on."""
    step: int | None = None
    checkpoint_step: int | None = None
    peak_memory_bytes: int | None = None
    time: TimeSpent | None = None


class RankError(BaseModel):
    """How a rank failed, in its own words."""

    model_config = ConfigDict(frozen=True)

    rank: int
    time: float
    """Seconds since the epoch."""
    exit_code: ExitCode
    reason: Reason
    message: str
    step: int | None = None
    memory_shortage: MemoryShortage | None = None


class RankDeath(BaseModel):
    """How a rank ended as its parent saw it: the only trace of one that was killed."""

    model_config = ConfigDict(frozen=True)

    rank: int
    time: float
    status: int
    """The exit code; negative, the number of the signal."""


class RankPromise(BaseModel):
    """By when a rank that trains will have spoken, if only to say that it hangs; its watchdog renews it."""

    model_config = ConfigDict(frozen=True)

    rank: int
    speaks_by: float
    """Seconds of CLOCK_MONOTONIC, which all processes of a machine share and no clock change moves."""


class HangNotice(BaseModel):
    """What a rank knows when it has made no step for too long."""

    model_config = ConfigDict(frozen=True)

    rank: int
    time: float
    """Seconds since the epoch."""
    step: int | None
    seconds: float
    """How long it waited."""
    collectives: int
    """Collective calls that it has begun in all, by torch's flight recorder."""


class HangVerdict(BaseModel):
    """Which rank of this pod hangs; from then on every rank leaves, with this code."""

    model_config = ConfigDict(frozen=True)

    rank: int | None
    step: int | None
    message: str
    exit_code: ExitCode = ExitCode.HANG


class Deaths(BaseModel):
    """Every rank of this pod whose end the parent saw first."""

    model_config = ConfigDict(frozen=True)

    deaths: tuple[RankDeath, ...] = ()


@dataclass(frozen=True)
class RunDirectory:
    """The folder of one attempt in one pod."""

    path: Path

    @property
    def logs(self) -> Path:
        """Where torchrun writes each rank's output."""
        return self.path / "logs"

    @property
    def deaths(self) -> Path:
        """Where the parent of the ranks writes how they ended."""
        return self.path / "deaths.json"

    def write_state(self, state: RankState) -> None:
        """Replace a rank's state."""
        _write(self.path / f"rank-{state.rank}.state.json", state)

    def write_error(self, error: RankError) -> None:
        """Write a rank's error."""
        _write(self.path / f"rank-{error.rank}.error.json", error)

    def forget_errors(self) -> None:
        """Remove what ranks wrote of their errors: what they failed at is done in another way."""
        for path in self.path.glob("rank-*.error.json"):
            path.unlink()

    def write_last_report(self, status: TrainerStatus) -> None:
        """Write what the training has told the operator last."""
        _write(self.path / "report.json", status)

    def last_report(self) -> TrainerStatus | None:
        """Return what the training has told the operator last; None where it told nothing."""
        return next(iter(_read_all(self.path, "report.json", TrainerStatus)), None)

    def write_evaluated(self, evaluated: Evaluated) -> None:
        """Write what was measured after the training."""
        _write(self.path / "evaluated.json", evaluated)

    def evaluated(self) -> Evaluated | None:
        """Return what was measured after the training, None before."""
        return next(iter(_read_all(self.path, "evaluated.json", Evaluated)), None)

    def write_deaths(self, deaths: Deaths) -> None:
        """Write how the ranks ended."""
        _write(self.deaths, deaths)

    def states(self) -> tuple[RankState, ...]:
        """Return the ranks' states, in the order of ranks."""
        return tuple(sorted(_read_all(self.path, "rank-*.state.json", RankState), key=lambda state: state.rank))

    def errors(self) -> tuple[RankError, ...]:
        """Return the errors that ranks wrote."""
        return tuple(_read_all(self.path, "rank-*.error.json", RankError))

    def write_promise(self, promise: RankPromise) -> None:
        """Renew a rank's promise."""
        _write(self.path / f"rank-{promise.rank}.promise.json", promise)

    def withdraw_promise(self, rank: int) -> None:
        """Take a rank's promise back: its steps are over."""
        (self.path / f"rank-{rank}.promise.json").unlink(missing_ok=True)

    def promises(self) -> tuple[RankPromise, ...]:
        """Return what ranks promise."""
        return tuple(_read_all(self.path, "rank-*.promise.json", RankPromise))

    def write_notice(self, notice: HangNotice) -> None:
        """Write that a rank has noticed a hang."""
        _write(self.path / f"rank-{notice.rank}.hang.json", notice)

    def notices(self) -> tuple[HangNotice, ...]:
        """Return which ranks have noticed a hang."""
        return tuple(_read_all(self.path, "rank-*.hang.json", HangNotice))

    def write_verdict(self, verdict: HangVerdict) -> None:
        """Write which rank hangs."""
        _write(self.path / "hang.json", verdict)

    def read_verdict(self) -> HangVerdict | None:
        """Return which rank hangs, None while that is not decided."""
        return next(iter(_read_all(self.path, "hang.json", HangVerdict)), None)

    def write_stacks(self, rank: int, stacks: bytes) -> None:
        """Write where a rank's threads stand."""
        (self.path / f"stacks-{rank:05d}.txt").write_bytes(stacks)

    def write_flight_record(self, rank: int, record: bytes) -> None:
        """Write a rank's last collective calls."""
        (self.path / f"flight-record-{rank:05d}.json").write_bytes(record)

    def evidence(self) -> tuple[Path, ...]:
        """Return the files with stacks and collective calls."""
        return (*sorted(self.path.glob("stacks-*.txt")), *sorted(self.path.glob("flight-record-*.json")))

    def read_deaths(self) -> tuple[RankDeath, ...]:
        """Return how ranks ended, as their parent saw it."""
        found = list(_read_all(self.path, self.deaths.name, Deaths))
        return found[0].deaths if found else ()


def _write(path: Path, value: BaseModel) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.write_text(value.model_dump_json())
    partial.replace(path)


def _read_all(folder: Path, pattern: str, kind: type[_T]) -> list[_T]:
    found = []
    for path in sorted(folder.glob(pattern)):
        try:
            found.append(kind.model_validate_json(path.read_bytes()))
        except ValidationError as error:
            # Files appear by rename, so that a broken one is a disk that ran full: the others still tell something.
            print(f"{path.name} is unreadable: {error.error_count()} problems", flush=True)
    return found
