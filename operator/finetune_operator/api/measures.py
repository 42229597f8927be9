"""What a training measures beside its loss, by names that metrics, run events, reports and docs share.

An objective's recipe (finetune_trainer.objectives) says under which names its library logs them.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

MEASURES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "token_accuracy": "Share of the counted tokens (0 to 1) that the model gave the highest probability.",
        "entropy": "Mean entropy of the model's next-token distribution over the counted tokens, in nats.",
    }
)
"""Name → meaning; the series `finetune_measure{measure="<name>"}`."""
