"""Progress reports to the operator: the body of Kubeflow's KEP-2779, from a thread of its own. They never stop or slow a training."""

from __future__ import annotations

import ssl
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Final, Protocol

from finetune_operator.api.constants import TOKEN_PATH, progress_path
from finetune_operator.api.plan import AttemptFile
from finetune_operator.api.progress import (
    EVALUATION_PREFIX,
    METRIC_ATTEMPT,
    METRIC_CHECKPOINT_STEP,
    METRIC_CHECKPOINTS_REJECTED,
    METRIC_LOSS,
    METRIC_PEAK_MEMORY_BYTES,
    METRIC_SLOW_RANK,
    METRIC_SLOW_RANK_RATIO,
    METRIC_SLOW_RANK_SHARE,
    METRIC_STEP,
    METRIC_TOKENS_PER_SECOND,
    METRIC_TOTAL_STEPS,
    METRIC_TRACKERS_FAILING,
    Metric,
    ProgressReport,
    TrainerStatus,
)
from finetune_operator.api.time_spent import TimeSpent
from finetune_trainer.stragglers import Straggler

INTERVAL_SECONDS: Final = 5.0
REQUEST_SECONDS: Final = 10.0
LAST_TRY_SECONDS: Final = 2.0


class Send(Protocol):
    """Delivers one body."""

    def __call__(self, body: bytes) -> None:
        """Deliver it, or raise OSError."""
        ...


class Reporter:
    """Keeps the newest status and sends it at most every five seconds, at once when told that it matters."""

    def __init__(
        self, send: Send, *, failed: Callable[[], None] = lambda: None, interval: float = INTERVAL_SECONDS
    ) -> None:
        self._send = send
        self._failed = failed
        self._interval = interval
        self._wake = threading.Condition()
        self._pending: bytes | None = None
        self._urgent = False
        self._closed = False
        self._deadline = 0.0
        self._thread = threading.Thread(target=self._run, name="report", daemon=True)
        self._thread.start()

    def update(self, status: TrainerStatus, *, urgent: bool = False) -> None:
        """Replace what is to be sent next."""
        body = ProgressReport(trainer_status=status).model_dump_json(by_alias=True, exclude_none=True).encode()
        with self._wake:
            self._pending = body
            self._urgent = self._urgent or urgent
            self._wake.notify()

    def close(self, seconds: float = 2 * REQUEST_SECONDS) -> None:
        """Send what is pending, again and again for as long as `seconds`, and end the thread."""
        with self._wake:
            self._deadline = time.monotonic() + seconds
            self._closed = True
            self._wake.notify()
        self._thread.join(seconds)

    def _run(self) -> None:
        last = -self._interval
        while True:
            with self._wake:
                while not self._closed and (
                    self._pending is None or not (self._urgent or time.monotonic() - last >= self._interval)
                ):
                    wait = None if self._pending is None else max(0.0, last + self._interval - time.monotonic())
                    self._wake.wait(wait)
                body, self._pending, self._urgent, closed = self._pending, None, False, self._closed
            taken = True
            if body is not None:
                last = time.monotonic()
                taken = self._deliver(body)
            if closed and (taken or not self._wait_for_another_try()):
                return
            if closed:
                with self._wake:
                    self._pending = self._pending or body

    def _deliver(self, body: bytes) -> bool:
        try:
            self._send(body)
        except (OSError, ValueError) as error:
            # The next report replaces this one; the metric shows that the operator does not hear us.
            self._failed()
            print(
                f"a progress report was not taken: {type(error).__name__} {getattr(error, 'reason', '')}",
                flush=True,
            )
            return False
        return True

    def _wait_for_another_try(self) -> bool:
        """Wait a moment, and say whether there is still time: the last report has no next one, and the operator may be restarting."""
        if self._deadline - time.monotonic() <= LAST_TRY_SECONDS:
            return False
        time.sleep(LAST_TRY_SECONDS)
        return True


def https_sender(attempt: AttemptFile, token_path: Path = Path(TOKEN_PATH)) -> Send | None:
    """Return what POSTs to the operator's progress server; None in local runs."""
    endpoint = attempt.progress
    if endpoint is None:
        return None
    url = endpoint.url.rstrip("/") + progress_path(attempt.namespace, attempt.name, "progress")
    context = ssl.create_default_context(cadata=endpoint.certificate_authority)
    # No proxy, whatever the pod's environment says: the token is for the operator, and the operator is in the cluster.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context))

    def send(body: bytes) -> None:
        # Read each time: the kubelet replaces the token before it expires.
        token = token_path.read_text().strip()
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {token}"}
        request = urllib.request.Request(url, data=body, headers=headers, method="POST")  # noqa: S310 - https, from the plan
        with opener.open(request, timeout=REQUEST_SECONDS):
            return

    return send


def trainer_status(
    *,
    now: datetime,
    attempt: int,
    step: int,
    total_steps: int,
    loss: float | None,
    evaluation: Mapping[str, float] = MappingProxyType({}),
    tokens_per_second: float | None,
    remaining_seconds: float | None,
    peak_memory_bytes: int | None,
    checkpoint_step: int | None,
    checkpoints_rejected: int,
    time_spent: TimeSpent | None = None,
    straggler: Straggler | None = None,
    trackers_failing: frozenset[str] = frozenset(),
) -> TrainerStatus:
    """Return the body for these values; the percentage reaches 100 only with the last step."""
    values = {
        METRIC_ATTEMPT: attempt,
        METRIC_STEP: step,
        METRIC_TOTAL_STEPS: total_steps,
        METRIC_LOSS: None if loss is None else round(loss, 6),
        **{f"{EVALUATION_PREFIX}{name}": round(value, 6) for name, value in evaluation.items()},
        METRIC_TOKENS_PER_SECOND: None if tokens_per_second is None else round(tokens_per_second, 1),
        METRIC_PEAK_MEMORY_BYTES: peak_memory_bytes,
        METRIC_CHECKPOINT_STEP: checkpoint_step,
        METRIC_CHECKPOINTS_REJECTED: checkpoints_rejected,
        **(time_spent.named() if time_spent else {}),
        METRIC_SLOW_RANK: straggler.rank if straggler else None,
        METRIC_SLOW_RANK_RATIO: round(straggler.ratio, 2) if straggler else None,
        METRIC_SLOW_RANK_SHARE: round(straggler.share, 3) if straggler else None,
        METRIC_TRACKERS_FAILING: ", ".join(sorted(trackers_failing)) or None,
    }
    return TrainerStatus(
        last_updated_time=now.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        progress_percentage=min(100, step * 100 // max(1, total_steps)),
        estimated_remaining_seconds=None if remaining_seconds is None else max(0, round(remaining_seconds)),
        metrics=tuple(Metric(name=name, value=str(value)) for name, value in values.items() if value is not None),
    )
