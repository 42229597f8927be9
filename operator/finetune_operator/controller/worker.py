"""The loops around `reconcile`: workers that take keys from the queue, and the resync that finds what no watch told."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Final, Protocol

from finetune_operator.api.constants import JOB_LABEL
from finetune_operator.controller.cache import Cache, JobKey
from finetune_operator.controller.clock import Clock
from finetune_operator.controller.kube import FINETUNE_JOBS, JOBS, Api, ApiError, TooManyRequests
from finetune_operator.controller.logs import describe
from finetune_operator.controller.reconcile import Outcome
from finetune_operator.controller.workqueue import QueueClosed, WorkQueue

logger = logging.getLogger(__name__)

RECONCILE_LIMIT_SECONDS: Final = 60.0
RESYNC_RETRY_SECONDS: Final = 15.0

OnReconciled = Callable[[str, float], None]
"""Told of every reconcile: its result (done, gone, invalid, refused, retried, failed) and its seconds."""


class Reconciles(Protocol):
    """What workers call."""

    async def reconcile(self, key: JobKey) -> Outcome:
        """Reconcile one job."""
        ...

    def distrust(self) -> None:
        """Apply everything again at the next reconcile of each job."""
        ...


async def work(queue: WorkQueue[JobKey], reconciler: Reconciles, clock: Clock, on_reconciled: OnReconciled) -> None:
    """Take keys and reconcile them until the queue is closed; no error of a job ends the worker."""
    while True:
        try:
            key = await queue.get()
        except QueueClosed:
            return
        started = clock.monotonic()
        try:
            result = await _reconcile(queue, reconciler, key)
        finally:
            queue.done(key)
        on_reconciled(result, clock.monotonic() - started)


async def _reconcile(queue: WorkQueue[JobKey], reconciler: Reconciles, key: JobKey) -> str:
    try:
        async with asyncio.timeout(RECONCILE_LIMIT_SECONDS):
            outcome = await reconciler.reconcile(key)
    except ApiError as error:
        patience = error.retry_after if isinstance(error, TooManyRequests) else 0.0
        delay = queue.retry(key, at_least=patience)
        logger.warning("reconciled later, in %.1f s: %s", delay, error, extra={"job": str(key)})
        return "retried"
    except Exception as error:
        # A bug, or data that we cannot read, of one job: it must not stop the others. Its type and place are logged, not
        # its text, which may quote content of the job.
        delay = queue.retry(key)
        logger.error("reconcile failed, tried again in %.1f s: %s", delay, describe(error), extra={"job": str(key)})
        return "failed"
    queue.forget(key)
    queue.add_after(key, outcome.requeue_after)
    return outcome.result


async def resync(
    api: Api,
    cache: Cache,
    queue: WorkQueue[JobKey],
    reconciler: Reconciles,
    clock: Clock,
    *,
    namespaces: Sequence[str],
    every_seconds: float,
    first_seconds: float | None = None,
) -> None:
    """List both kinds from time to time, drop what has vanished unseen, and have every job looked at.

    The keys are spread over the interval, so that 5,000 jobs are a trickle and not a flood.
    """
    pause = every_seconds if first_seconds is None else first_seconds
    while True:
        await clock.sleep(pause)
        pause = every_seconds
        try:
            vanished = await relist(api, cache, namespaces)
        except ApiError as error:
            logger.warning("the resync is tried again in %.0f s: %s", RESYNC_RETRY_SECONDS, error)
            await clock.sleep(RESYNC_RETRY_SECONDS)
            continue
        reconciler.distrust()
        for key in vanished:
            queue.add(key)
        keys = cache.job_keys()
        for number, key in enumerate(keys):
            queue.add_after(key, every_seconds * (number + 1) / (len(keys) + 1))


async def relist(api: Api, cache: Cache, namespaces: Sequence[str]) -> set[JobKey]:
    """List both kinds into the cache; return the keys that lost something. No namespaces means all."""
    vanished: set[JobKey] = set()
    for resource, labels in ((FINETUNE_JOBS, ""), (JOBS, JOB_LABEL)):
        before = cache.snapshot(resource.kind)
        listings = [await api.list(resource, namespace, labels=labels) for namespace in (namespaces or ("",))]
        bodies = [body for listing in listings for body in listing.items]
        vanished |= cache.relist(resource.kind, bodies, before)
    return vanished
