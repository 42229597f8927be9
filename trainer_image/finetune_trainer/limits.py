"""How long a rank waits for what, in one place: production's values are the defaults, tests and programs that measure give others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

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
