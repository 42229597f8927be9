"""The file of run events: what `finetune run`, tests and reports read while an attempt runs."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping

from finetune_operator.api.model import ReadModel
from finetune_operator.api.run_events import RUN_EVENTS_VARIABLE


class EventLog:
    """Appends one JSON object per line; without the variable nothing is written."""

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        self._path = environment.get(RUN_EVENTS_VARIABLE)
        self._lock = threading.Lock()
        self.listeners: list[Callable[[ReadModel], None]] = []
        """Who hears every event too, whether or not it is written."""

    def write(self, event: ReadModel) -> None:
        """Append an event; the upload thread and the main thread both write."""
        for hear in self.listeners:
            hear(event)
        if self._path is None:
            return
        line = event.model_dump_json(by_alias=True) + "\n"
        with self._lock, open(self._path, "a", encoding="utf-8") as file:
            file.write(line)
