"""The only module that knows kopf: it logs in, lists, watches, and hands every event to the cache and the queue.

kopf is a good shell and no controller, so handlers are `on.event` only and do nothing that could fail: an error in one
would be logged and the event lost. What kopf would write (annotations, finalizers, Events) is never triggered by them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import kopf
from kubernetes.aio.client import Configuration

from finetune_operator.api.constants import GROUP, JOB_LABEL, PLURAL, VERSION
from finetune_operator.controller.cache import Cache, JobKey
from finetune_operator.controller.kube import JOBS, Body
from finetune_operator.controller.workqueue import WorkQueue


def shell_settings() -> kopf.OperatorSettings:
    """Return kopf's settings, each with its reason."""
    settings = kopf.OperatorSettings()
    # Our Lease decides who works. kopf's peering pauses all replicas, itself included, when priorities are equal.
    settings.peering.standalone = True
    # No watch of CRDs and namespaces: less RBAC. The CRD must be there before the operator starts.
    settings.scanning.disabled = True
    # Events are ours: counted in series.
    settings.posting.enabled = False
    # Two operators with kopf's default finalizer strip each other's; ours is never set by on.event, only named.
    settings.persistence.finalizer = f"{GROUP}/kopf"
    settings.persistence.progress_storage = kopf.AnnotationsProgressStorage(prefix=GROUP)
    settings.persistence.diffbase_storage = kopf.AnnotationsDiffBaseStorage(prefix=GROUP)
    # On the server's side: a handler's own label filter would download every batch Job of the cluster.
    settings.watching.label_selectors["batch", "v1", "jobs"] = JOB_LABEL
    settings.watching.chunk_size = 500
    # A watch that has died silently ends by itself; kopf 1.44 also notices missing bookmarks.
    settings.watching.server_timeout = 600
    settings.watching.client_timeout = 660
    settings.networking.connect_timeout = 10
    settings.networking.request_timeout = 30
    # An idle worker keeps its slot for this long; with a limit on workers that throttles the start to 10 objects/s.
    settings.queueing.idle_timeout = 0.5
    settings.queueing.worker_limit = None
    # Below the pod's terminationGracePeriodSeconds (30).
    settings.process.ultimate_exiting_timeout = 25
    return settings


def event_handlers(
    cache: Cache, queue: WorkQueue[JobKey]
) -> tuple[Callable[[str | None, Body], None], Callable[[str | None, Body], None]]:
    """Return what is done with an event of a FineTuneJob, and with one of a batch Job."""

    def on_job(event: str | None, body: Body) -> None:
        key = cache.put_job(event, body)
        queue.add(key)
        for waiting in cache.waiting_for(key):
            queue.add(waiting)

    def on_child(event: str | None, body: Body) -> None:
        key = cache.put_child(event, body)
        if key is not None:
            queue.add(key)

    return on_job, on_child


def register(
    registry: kopf.OperatorRegistry, cache: Cache, queue: WorkQueue[JobKey], login: Callable[..., Any]
) -> None:
    """Add our handlers to kopf's registry."""
    take_job, take_child = event_handlers(cache, queue)

    @kopf.on.event(GROUP, VERSION, PLURAL, registry=registry)
    async def on_job(event: kopf.RawEvent, **_: object) -> None:
        take_job(event["type"], _plain(event["object"]))

    @kopf.on.event("batch", "v1", JOBS.plural, registry=registry)
    async def on_child(event: kopf.RawEvent, **_: object) -> None:
        take_child(event["type"], _plain(event["object"]))

    kopf.on.login(registry=registry)(login)


def _plain(body: Any) -> Body:
    return dict(body)


def login_with(configuration: Configuration) -> Callable[..., Awaitable[kopf.ConnectionInfo]]:
    """Return kopf's login by our client's configuration: one source of credentials, renewed for both."""

    async def login(**_: object) -> kopf.ConnectionInfo:
        authorization = await configuration.get_api_key_with_prefix("BearerToken") or ""
        return kopf.ConnectionInfo(
            server=configuration.host,
            ca_path=configuration.ssl_ca_cert,
            ca_data=None if configuration.ssl_ca_cert else configuration.ca_cert_data,
            insecure=not configuration.verify_ssl,
            token=authorization.rpartition(" ")[2] or None,
            certificate_path=configuration.cert_file,
            private_key_path=configuration.key_file,
        )

    return login


async def watch(
    cache: Cache,
    queue: WorkQueue[JobKey],
    configuration: Configuration,
    namespaces: Sequence[str],
    ready: asyncio.Event,
) -> None:
    """Watch until cancelled; an error that kopf cannot get over is raised, for the process to end.

    kopf cancels whatever task of the loop was started after it: start it last.
    """
    registry = kopf.OperatorRegistry()
    register(registry, cache, queue, login_with(configuration))
    await kopf.operator(
        registry=registry,
        settings=shell_settings(),
        standalone=True,
        clusterwide=not namespaces,
        namespaces=list(namespaces),
        ready_flag=ready,
    )
