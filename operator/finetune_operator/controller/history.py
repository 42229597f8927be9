"""The history of finished runs in one ConfigMap of the operator's namespace: read once, written only when a job has taught something new.

Every reconcile of a finished job tells its run again, and all but the first change nothing: what was lost between two writes is told again by the
next resync or the next leader. Only the leader writes, at most once in `WRITE_SECONDS`, so that a burst of finished jobs costs one request.
"""

from __future__ import annotations

import logging
from typing import Final

from pydantic import ValidationError

from finetune_operator.api.history import EMPTY_HISTORY, History
from finetune_operator.controller.clock import Clock
from finetune_operator.controller.kube import CONFIG_MAPS, Api, ApiError, Forbidden, NotFound
from finetune_operator.planner.history import FinishedRun, merged, record

logger = logging.getLogger(__name__)

WRITE_SECONDS: Final = 10.0
HISTORY_FILE: Final = "history.json"
"""The key of the ConfigMap."""


class HistoryKeeper:
    """Keeps the history in memory and in its ConfigMap."""

    def __init__(self, api: Api, clock: Clock, namespace: str, name: str) -> None:
        self._api = api
        self._clock = clock
        self._namespace = namespace
        self._name = name
        self._history = EMPTY_HISTORY
        self._is_written = True

    @property
    def history(self) -> History:
        """What is known now."""
        return self._history

    async def load(self) -> None:
        """Read the ConfigMap; a history that cannot be read corrects nothing, and is no reason not to work."""
        try:
            stored = await self._stored()
        except ApiError as error:
            logger.warning("the history of finished jobs cannot be read, plans are made without it: %s", error)
            return
        self._history = merged(stored, *self._history.records)
        self._is_written = self._history is stored

    def note(self, run: FinishedRun | None) -> None:
        """Take a finished run; telling it again changes nothing."""
        if run is None:
            return
        history = record(self._history, run)
        if history is not self._history:
            self._history, self._is_written = history, False

    async def keep(self) -> None:
        """Write for ever what is new."""
        while True:
            await self._clock.sleep(WRITE_SECONDS)
            await self.flush()

    async def flush(self) -> None:
        """Write what is new, if anything is; what the API server refuses is tried again at the next time."""
        if self._is_written:
            return
        try:
            stored = await self._stored()
            history = merged(stored, *self._history.records)
            if history is not stored:
                await self._api.apply(self._config_map(history))
        except Forbidden as error:
            self._is_written = True  # until a run is new again: only a person can change that
            logger.warning("the history of finished jobs cannot be written, it is kept in memory only: %s", error)
        except ApiError as error:
            logger.warning("the history of finished jobs is written later: %s", error)
        else:
            self._history, self._is_written = history, True

    async def _stored(self) -> History:
        try:
            body = await self._api.get(CONFIG_MAPS, self._namespace, self._name)
        except NotFound:
            return EMPTY_HISTORY
        try:
            return History.model_validate_json((body.get("data") or {}).get(HISTORY_FILE, "{}"))
        except ValidationError as error:
            logger.warning(
                "ConfigMap %s/%s: %s is not what the operator writes (%d problems); it is replaced with the next finished job",
                self._namespace,
                self._name,
                HISTORY_FILE,
                error.error_count(),
            )
            return EMPTY_HISTORY

    def _config_map(self, history: History) -> dict[str, object]:
        return {
            "apiVersion": CONFIG_MAPS.api_version,
            "kind": CONFIG_MAPS.kind,
            "metadata": {"name": self._name, "namespace": self._namespace},
            "data": {HISTORY_FILE: history.model_dump_json(by_alias=True, exclude_none=True)},
        }
