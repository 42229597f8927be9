"""The operator's process: what runs in every replica, what only in the leader, and in which order it ends.

Every replica serves probes, metrics and the progress server. The leader also lists, watches and reconciles. The end of
any part, error or not, ends the process: a half-working operator is worse than one that the kubelet restarts.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from kubernetes.aio.client import Configuration

from finetune_operator import __version__
from finetune_operator.api.reasons import JobState
from finetune_operator.controller import shell
from finetune_operator.controller.accounts import Accounts
from finetune_operator.controller.cache import Cache, JobKey
from finetune_operator.controller.certificates import ServerCertificate
from finetune_operator.controller.clock import Clock, SystemClock
from finetune_operator.controller.documents import DocumentStore
from finetune_operator.controller.events import EventRecorder
from finetune_operator.controller.health import Health, health_app
from finetune_operator.controller.history import HistoryKeeper
from finetune_operator.controller.inventory import InventoryReader
from finetune_operator.controller.kube import FINETUNE_JOBS, JOBS, LEASES, Api, ApiError
from finetune_operator.controller.kube_client import KubernetesApi, load_configuration
from finetune_operator.controller.lease import LeaderElector, LeaseLost
from finetune_operator.controller.limits import LimitsReader
from finetune_operator.controller.listening import listening
from finetune_operator.controller.logs import configure_logs, describe
from finetune_operator.controller.metrics import OperatorMetrics
from finetune_operator.controller.observe import Observer
from finetune_operator.controller.parts import PartEnded, until_one_ends
from finetune_operator.controller.progress_server import ProgressServer
from finetune_operator.controller.reconcile import Reconciler
from finetune_operator.controller.settings import InvalidSettings, OperatorSettings, RenderSource
from finetune_operator.controller.worker import relist, resync, work
from finetune_operator.controller.workqueue import WorkQueue
from finetune_operator.jobs.desired import desired_state
from finetune_operator.planner.replan import next_plan

logger = logging.getLogger(__name__)

GAUGES_SECONDS: Final = 15.0
DRAIN_SECONDS: Final = 5.0
"""How long reconciles under way may go on at the end: the Lease is not renewed any more, and must not run out meanwhile."""
FIRST_LIST_RETRY_SECONDS: Final = 2.0
FIRST_RESYNC_SECONDS: Final = 20.0
"""Until the watch has surely listed for itself; of what was deleted between our first list and that one no event tells."""

Watch = Callable[[Cache, WorkQueue[JobKey], asyncio.Event], Coroutine[Any, Any, None]]


@dataclass(frozen=True)
class Operator:
    """The parts, wired; `api` and `watch` are the real ones or a test's."""

    settings: OperatorSettings
    api: Api
    clock: Clock
    metrics: OperatorMetrics
    health: Health
    cache: Cache
    queue: WorkQueue[JobKey]
    reconciler: Reconciler
    elector: LeaderElector
    progress: ProgressServer
    history: HistoryKeeper
    watch: Watch

    async def lead(self) -> None:
        """Wait for the Lease, then list, watch and reconcile until a part ends; drain and give the Lease back."""
        await self.elector.acquire()
        workers = []
        try:
            await self._list_first()
            await self.history.load()
            work_one = (
                work(self.queue, self.reconciler, self.clock, self.metrics.observe_reconcile)
                for _ in range(self.settings.workers)
            )
            workers = [asyncio.create_task(one, name="worker") for one in work_one]
            await until_one_ends(
                {
                    "lease": self.elector.hold(),
                    "resync": self._resync(),
                    "gauges": self._show_gauges(),
                    "history": self.history.keep(),
                    "watch": self.watch(self.cache, self.queue, asyncio.Event()),
                }
            )
        finally:
            self.queue.close()
            if workers:
                # A reconcile that was cut off is finished by the next leader; a Lease that was lost leaves no time.
                _, late = await asyncio.wait(workers, timeout=DRAIN_SECONDS if self.elector.leading else 0)
                for worker in late:
                    worker.cancel()
            await self.elector.release()

    async def _list_first(self) -> None:
        """List both kinds before any worker starts: a child that is not cached yet would look like a missing one."""
        while True:
            try:
                await relist(self.api, self.cache, self.settings.watch_namespaces)
                break
            except ApiError as error:
                logger.warning("the first list is tried again: %s", error)
                await self.clock.sleep(FIRST_LIST_RETRY_SECONDS)
        for resource in (FINETUNE_JOBS, JOBS):
            self.health.watch(resource.kind)
            self.metrics.track_watch(resource.kind, partial(self.health.age_seconds, resource.kind))
        for key in self.cache.job_keys():
            self.queue.add(key)

    async def _resync(self) -> None:
        await resync(
            self.api,
            self.cache,
            self.queue,
            self.reconciler,
            self.clock,
            namespaces=self.settings.watch_namespaces,
            every_seconds=self.settings.resync_seconds,
            first_seconds=min(FIRST_RESYNC_SECONDS, self.settings.resync_seconds),
        )

    async def _show_gauges(self) -> None:
        while True:
            counts = self.cache.states()
            self.metrics.set_jobs({state: counts.get(str(state), 0) for state in JobState})
            await self.clock.sleep(GAUGES_SECONDS)


def build(settings: OperatorSettings, api: Api, clock: Clock, metrics: OperatorMetrics, watch: Watch) -> Operator:
    """Wire the parts."""
    queue: WorkQueue[JobKey] = WorkQueue(
        clock, on_depth=metrics.workqueue_depth.set, on_wait=metrics.workqueue_wait_seconds.observe
    )

    health = Health(
        clock,
        resync_seconds=settings.resync_seconds,
        oldest_queue_wait_seconds=lambda: queue.oldest_wait_seconds,
        reach_api=partial(api.get, LEASES, settings.operator_namespace, settings.lease_name),
    )
    cache = Cache(health.seen)
    documents = DocumentStore(api)
    history = HistoryKeeper(api, clock, settings.operator_namespace, settings.history_name)
    observer = Observer(
        api,
        cache,
        documents,
        InventoryReader(api, clock),
        LimitsReader(api, clock),
        lambda: history.history,
        clock,
    )
    reconciler = Reconciler(
        api=api,
        cache=cache,
        observer=observer,
        events=EventRecorder(
            api, clock, settings.pod_name, lambda reason: metrics.events_total.labels(str(reason)).inc()
        ),
        accounts=Accounts(metrics),
        history=history,
        decide=partial(desired_state, planner=partial(next_plan, prices=settings.planner_prices)),
        render=RenderSource(settings),
        clock=clock,
    )

    def on_leading(leading: bool) -> None:
        health.set_leader(leading)
        metrics.leader.set(leading)

    elector = LeaderElector(api, clock, settings.lease, on_leading)

    def on_inspection(namespace: str, name: str) -> None:
        # A standby replica has no workers: its queue would only grow. The leader hears of the inspect Job's end.
        if elector.leading:
            key = JobKey(namespace, name)
            documents.forget(key)
            queue.add(key)

    return Operator(
        settings=settings,
        api=api,
        clock=clock,
        metrics=metrics,
        health=health,
        cache=cache,
        queue=queue,
        reconciler=reconciler,
        elector=elector,
        progress=ProgressServer(api, clock, metrics, notify=on_inspection),
        history=history,
        watch=watch,
    )


def real_watch(configuration: Configuration, settings: OperatorSettings, on_ready: Callable[[], None]) -> Watch:
    """Return kopf's watch; kopf takes the process's signals when it starts, and `on_ready` takes them back."""

    async def watch(cache: Cache, queue: WorkQueue[JobKey], ready: asyncio.Event) -> None:
        async def take_back() -> None:
            await ready.wait()
            on_ready()

        taking_back = asyncio.create_task(take_back())
        try:
            await shell.watch(cache, queue, configuration, settings.watch_namespaces, ready)
        finally:
            taking_back.cancel()

    return watch


async def run(settings: OperatorSettings) -> None:
    """Run until SIGTERM or SIGINT; any other end is an exception."""
    stop = asyncio.Event()

    def take_signals() -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)

    take_signals()
    clock, metrics = SystemClock(), OperatorMetrics()
    configuration = await load_configuration()
    async with AsyncExitStack() as stack:
        api = KubernetesApi(
            configuration, timeout_seconds=settings.api_timeout_seconds, on_request=metrics.observe_request
        )
        stack.push_async_callback(api.close)
        operator = build(settings, api, clock, metrics, real_watch(configuration, settings, take_signals))
        certificate = ServerCertificate(settings.tls_directory)
        await stack.enter_async_context(listening(health_app(operator.health, metrics), settings.health_port))
        await stack.enter_async_context(
            listening(operator.progress.app, settings.progress_port, tls=certificate.context)
        )
        logger.info("started", extra={"version": __version__, "replica": settings.pod_name})
        try:
            await until_one_ends(
                {
                    "signal": _stopped(stop),
                    "loop lag": operator.health.measure_loop_lag(),
                    "certificate": certificate.follow(clock),
                    "progress writer": operator.progress.writer.flush_forever(),
                    "leader": operator.lead(),
                }
            )
        except PartEnded:
            if not stop.is_set():
                raise
            await operator.progress.writer.flush()
    logger.info("stopped")


async def _stopped(stop: asyncio.Event) -> None:
    await stop.wait()


def main() -> int:
    """Run the operator; return the process's exit code."""
    try:
        settings = OperatorSettings.from_environment(os.environ)
    except InvalidSettings as error:
        sys.stderr.write(f"the operator's settings are unusable: {error}\n")
        return 2
    configure_logs(settings.log_level, sys.stderr)
    try:
        asyncio.run(run(settings))
    except (LeaseLost, PartEnded, InvalidSettings) as error:
        logger.error("the process ends: %s", error)
        return 1
    except Exception as error:
        logger.error("the process ends: %s", describe(error), exc_info=error)
        return 1
    return 0
