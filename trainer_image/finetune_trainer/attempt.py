"""What a process of an attempt knows at its start: the attempt's file, who it is among the ranks, and where it may write."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pydantic import ValidationError

from finetune_operator.api.constants import MODEL_CACHE_VARIABLE, WORK_DIRECTORY, WORK_DIRECTORY_VARIABLE
from finetune_operator.api.exit_codes import ExitCode
from finetune_operator.api.plan import AttemptFile
from finetune_trainer.failures import TrainerFailure
from finetune_trainer.rank_files import RUN_DIRECTORY_VARIABLE, RunDirectory

SWAP_FOLDER: Final = "swap"


def read_attempt(path: Path) -> AttemptFile:
    """Return the attempt that the file describes; a file that cannot be used is a TrainerFailure."""
    try:
        return AttemptFile.model_validate_json(path.read_bytes())
    except FileNotFoundError as error:
        raise TrainerFailure(
            ExitCode.BAD_SPEC, f"there is no plan file at {path}; give its path with --plan"
        ) from error
    except ValidationError as error:
        fields = ", ".join(
            ".".join(str(part) for part in problem["loc"]) or "the file" for problem in error.errors()[:5]
        )
        raise TrainerFailure(
            ExitCode.BAD_SPEC,
            f"{path.name} is not a plan that this trainer understands, at: {fields}; operator and trainer image must be of one version",
        ) from error


@dataclass(frozen=True)
class Workplace:
    """The folders of one pod."""

    work: Path
    run: RunDirectory
    cache: Path | None = None
    """A folder of models that other pods and jobs share; None keeps the model in the pod."""

    @classmethod
    def of(cls, attempt: AttemptFile, environment: Mapping[str, str] = os.environ) -> Workplace:
        """Return the folders that the environment names, or the pod's own."""
        work = Path(environment.get(WORK_DIRECTORY_VARIABLE, WORK_DIRECTORY))
        run = environment.get(RUN_DIRECTORY_VARIABLE)
        cache = environment.get(MODEL_CACHE_VARIABLE)
        return cls(
            work,
            RunDirectory(Path(run) if run else work / f"attempt-{attempt.attempt}"),
            Path(cache) if cache else None,
        )

    @property
    def model(self) -> Path:
        """The downloaded base model."""
        return self.work / "model"

    @property
    def data(self) -> Path:
        """The downloaded rows and what was tokenised of them."""
        return self.work / "data"

    @property
    def functions(self) -> Path:
        """The user's functions, copied from mounted ConfigMaps."""
        return self.work / "functions"

    @property
    def staging(self) -> Path:
        """Checkpoints before they are uploaded."""
        return self.work / "staging"

    @property
    def swap(self) -> Path:
        """Optimizer states that are on local disk while they are not stepped (resources.offload: nvme)."""
        return self.work / SWAP_FOLDER

    @property
    def tracking(self) -> Path:
        """What trackers write before it is uploaded."""
        return self.work / "tracking"

    @property
    def resume(self) -> Path:
        """The checkpoint that the attempt goes on from."""
        return self.work / "resume"


@dataclass(frozen=True)
class Place:
    """Who this process is among the ranks, as torchrun says."""

    rank: int
    world_size: int
    local_rank: int
    local_world_size: int

    @classmethod
    def of(cls, environment: Mapping[str, str] = os.environ) -> Place:
        """Return the place that torchrun's variables name; without them, the only rank."""
        return cls(
            rank=int(environment.get("RANK", "0")),
            world_size=int(environment.get("WORLD_SIZE", "1")),
            local_rank=int(environment.get("LOCAL_RANK", "0")),
            local_world_size=int(environment.get("LOCAL_WORLD_SIZE", "1")),
        )

    @property
    def is_first(self) -> bool:
        """The one rank that reports, commits and writes events."""
        return self.rank == 0

    @property
    def is_first_of_pod(self) -> bool:
        """The one rank of a pod that downloads."""
        return self.local_rank == 0

    @property
    def pod(self) -> int:
        """The completion index of the pod."""
        return self.rank // self.local_world_size
