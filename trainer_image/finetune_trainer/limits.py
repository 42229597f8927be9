"""How long a rank waits for what, in one place: production's values are the defaults, tests and programs that measure give others."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from finetune_operator.api.constants import HANG_SECONDS_VARIABLE
from finetune_operator.api.exit_codes import ExitCode
from finetune_trainer.failures import TrainerFailure
from finetune_trainer.storage import StorageSettings
from finetune_trainer.upload_retries import UploadPatience
from finetune_trainer.watchdog import hang_seconds


@dataclass(frozen=True)
class Limits:
    """The limits of one rank."""

    hang: Callable[[Sequence[float]], float] = hang_seconds
    """Seconds without a finished step after which a rank hangs, from the seconds of its last steps."""
    storage: StorageSettings = field(default_factory=StorageSettings)
    """Of one request for a checkpoint."""
    upload: UploadPatience = field(default_factory=UploadPatience)
    """Of one checkpoint."""

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> Limits:
        """Return production's limits with what the pod's environment changes of them; a value that is no time is a TrainerFailure."""
        text = environment.get(HANG_SECONDS_VARIABLE)
        if text is None:
            return cls()
        try:
            least = float(text)
        except ValueError:
            least = math.nan
        if not 0 < least < math.inf:
            raise TrainerFailure(
                ExitCode.BAD_SPEC,
                f"pod.env: {HANG_SECONDS_VARIABLE} is {text!r} and must be a number of seconds above 0, such as 600",
            )
        return cls(hang=partial(hang_seconds, least=least))
