"""MLflow, by its client alone: no global state, and no callback of a library in the training's own thread."""

from __future__ import annotations

import os
import time
from typing import Any, Final, Literal

from finetune_operator.api.plan import AttemptFile
from finetune_operator.api.tracking import Mlflow
from finetune_trainer.trackers.tracker import KINDS, Record, Told, settings_of

UID_TAG: Final = "finetune-operator.dev/uid"
BATCH: Final = 1000
"""Metrics of one request at most (MLflow's REST API, runs/log-batch)."""
_PATIENCE: Final = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "20", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3"}
"""Its own defaults wait for a dead server for minutes."""


class MlflowRun:
    """One run for all attempts, found again by the job's uid."""

    name = "mlflow"
    folder = None

    def __init__(self, attempt: AttemptFile, settings: Mlflow) -> None:
        self._attempt, self._settings = attempt, settings
        self._client: Any = None
        self._run = ""

    def open(self, told: Told) -> Told:
        """Find or make the run, and ask the server what it has of it."""
        for name, value in _PATIENCE.items():
            os.environ.setdefault(name, value)
        from mlflow.tracking import MlflowClient

        client = self._client = MlflowClient(tracking_uri=self._settings.uri)
        found = client.get_experiment_by_name(self._settings.experiment)
        experiment = found.experiment_id if found else client.create_experiment(self._settings.experiment)
        runs = client.search_runs([experiment], f"tags.`{UID_TAG}` = '{self._attempt.uid}'", max_results=1)
        if runs:
            self._run = runs[0].info.run_id
            client.update_run(self._run, status="RUNNING")
            return {kind: self._last_step(f"{kind}/loss") for kind in KINDS}
        tags = {UID_TAG: self._attempt.uid, "finetune-operator.dev/namespace": self._attempt.namespace}
        self._run = client.create_run(experiment, tags=tags, run_name=self._attempt.name).info.run_id
        from mlflow.entities import Param

        params = [Param(name, str(value)) for name, value in settings_of(self._attempt).items()]
        client.log_batch(self._run, params=params)
        return {}

    def _last_step(self, metric: str) -> int:
        return max((one.step for one in self._client.get_metric_history(self._run, metric)), default=0)

    def tell(self, records: tuple[Record, ...]) -> None:
        """Send numbers, as many at once as a request may have."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        metrics = [Metric(name, value, now, record.step) for record in records for name, value in record.named.items()]
        for start in range(0, len(metrics), BATCH):
            self._client.log_batch(self._run, metrics=metrics[start : start + BATCH])

    def flush(self) -> bool:
        """Return that nothing is held back."""
        return True

    def close(self, ended: Literal["finished", "failed"]) -> None:
        """Say how it ended."""
        self._client.set_terminated(self._run, "FINISHED" if ended == "finished" else "FAILED")
