"""Gather what is known of one job, from the cache where it watches and from the API server where it does not."""

from __future__ import annotations

from collections.abc import Callable
from types import MappingProxyType
from typing import Protocol

from finetune_operator.api.constants import JOB_LABEL
from finetune_operator.api.history import History
from finetune_operator.api.inspection import inspection_key
from finetune_operator.api.job import FineTuneJob
from finetune_operator.api.pods import Pod
from finetune_operator.controller.cache import Cache, CachedChild, JobKey
from finetune_operator.controller.clock import Clock
from finetune_operator.controller.documents import Documents, DocumentStore
from finetune_operator.controller.kube import PODS, Api
from finetune_operator.controller.pods import pod_reports
from finetune_operator.controller.refusals import Refusals
from finetune_operator.jobs.chains import resolved
from finetune_operator.jobs.conditions import is_finished
from finetune_operator.jobs.observed import Observed, PodReport
from finetune_operator.jobs.stage import Stage
from finetune_operator.jobs.times import moment_of, seconds_since
from finetune_operator.planner.inventory import Inventory
from finetune_operator.planner.limits import NO_LIMITS, Limits


class InventorySource(Protocol):
    """Where the inventory comes from."""

    async def read(self, pod: Pod) -> Inventory:
        """Return what the cluster offers a job with such pods."""
        ...


class LimitsSource(Protocol):
    """Where the limits of a namespace come from."""

    async def read(self, namespace: str, priority_class: str | None = None) -> Limits:
        """Return what a job of that namespace may take."""
        ...


class Observer:
    """Makes the `Observed` that decisions are made from."""

    def __init__(
        self,
        api: Api,
        cache: Cache,
        documents: DocumentStore,
        inventory: InventorySource,
        limits: LimitsSource,
        history: Callable[[], History],
        clock: Clock,
    ) -> None:
        self._api = api
        self._cache = cache
        self._documents = documents
        self._inventory = inventory
        self._limits = limits
        self._history = history
        self._clock = clock
        self._refusals = Refusals(api, clock)
        self._settled: dict[JobKey, frozenset[tuple[str, str]]] = {}

    async def observe(self, key: JobKey, job: FineTuneJob) -> Observed:
        """Return what is known of `job` now."""
        uid = job.metadata.uid
        sources = self._cache.sources(key)
        labelled = self._cache.children(key)
        ours = tuple(child for child in labelled if child.owner_uid == uid)
        documents = await self._documents.of_job(key, uid, _inspect_version(ours))
        inspection, owned = documents.inspection, True
        resolved_job = resolved(job, sources, documents.attempts)
        is_new = inspection is None and not any(child.job.component == "inspect" for child in ours)
        if is_new and not isinstance(resolved_job, Stage):
            found, _ = resolved_job
            inspection = await self._documents.inspection_of_equals(
                key.namespace, inspection_key(key.namespace, found.spec)
            )
            owned = inspection is None
        now = self._clock.now()
        pods = await self._pods(key, job, ours)
        return Observed(
            now=now,
            inventory=await self._inventory.read(job.spec.pod),
            limits=(
                await self._limits.read(key.namespace, job.spec.scheduling.priority_class)
                if _may_be_planned(job, documents)
                else NO_LIMITS
            ),
            history=self._history(),
            sources=MappingProxyType(sources),
            children=tuple(child.job for child in ours),
            pods=pods,
            inspection=inspection,
            inspection_age_seconds=seconds_since(moment_of(inspection.finished_at), now) if inspection else 0.0,
            inspection_owned=owned,
            attempts=MappingProxyType(dict(documents.attempts)),
            refusals=MappingProxyType(await self._refusals.of_children(key.namespace, ours, pods, documents.attempts)),
            foreign=(
                *(f"Job/{child.job.name}" for child in labelled if child.owner_uid != uid),
                *(f"ConfigMap/{name}" for name in documents.foreign),
            ),
        )

    def settle(self, key: JobKey) -> None:
        """Note that the status tells all of the children as they are; pods of a finished job need no other look."""
        self._settled[key] = _versions(self._cache.children(key))

    def forget(self, key: JobKey) -> None:
        """Drop what is remembered of a job."""
        self._settled.pop(key, None)
        self._documents.forget(key)

    async def _pods(self, key: JobKey, job: FineTuneJob, ours: tuple[CachedChild, ...]) -> tuple[PodReport, ...]:
        if not ours or (is_finished(job.status) and self._settled.get(key) == _versions(self._cache.children(key))):
            return ()
        listing = await self._api.list(PODS, key.namespace, labels=f"{JOB_LABEL}={key.name}")
        return pod_reports(listing.items, ours)


def _may_be_planned(job: FineTuneJob, documents: Documents) -> bool:
    """Whether this look may make a plan: before the first attempt, after a failed one, or when the spec of one that never started has changed."""
    if is_finished(job.status):
        return False
    latest = job.status.attempts[-1] if job.status.attempts else None
    failed = latest is not None and latest.result == "Failed"
    return failed or not documents.attempts or job.status.start_time is None


def _versions(children: tuple[CachedChild, ...]) -> frozenset[tuple[str, str]]:
    return frozenset((child.uid, child.resource_version) for child in children)


def _inspect_version(children: tuple[CachedChild, ...]) -> str:
    return next((child.resource_version for child in children if child.job.component == "inspect"), "")
