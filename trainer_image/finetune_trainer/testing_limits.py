"""Limits of a rank for tests: seconds where a training has minutes."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

from finetune_trainer.limits import Limits
from finetune_trainer.storage import StorageSettings
from finetune_trainer.upload_retries import UploadPatience


def short_limits(hang: float | None, upload: float | None, *, until_then: float) -> Limits:
    """Return limits where `hang` seconds without a step are a hang, from the third step on, and a checkpoint is tried again for `upload` seconds."""
    limits = Limits()
    if hang is not None:
        limits = replace(limits, hang=lambda steps: hang if len(steps) >= 2 else until_then)
    if upload is not None:
        quick = StorageSettings(
            timedelta(seconds=5), timedelta(seconds=2), retries=0, retry_timeout=timedelta(seconds=1)
        )
        limits = replace(limits, storage=quick, upload=UploadPatience(upload, first_pause=0.05, longest_pause=0.2))
    return limits
