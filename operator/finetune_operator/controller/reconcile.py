"""Bring one job to what it should be: observe, decide, apply, and write its status once, last, and only if it differs.

Level-triggered: it never asks what happened. It may run twice, late or on stale data; a second run writes nothing.
All decisions are `desired_state`'s. What is decided here is only how to write safely: an object that bears a child's
name and belongs to someone else is never touched, a batch Job that runs is never rewritten (its template is immutable,
and a newer operator renders another one) but for `spec.suspend`, and what the API server refuses is said in the status.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Final, Literal

from finetune_operator.api.constants import API_VERSION, FIELD_MANAGER, KIND, SPEC_HASH_ANNOTATION
from finetune_operator.api.job import FineTuneJob, InvalidJob
from finetune_operator.api.reasons import ConditionType, Reason
from finetune_operator.controller.accounts import Accounts
from finetune_operator.controller.cache import Cache, CachedChild, JobKey, controller_uid
from finetune_operator.controller.clock import Clock
from finetune_operator.controller.documents import UnreadableDocument
from finetune_operator.controller.events import EventRecorder
from finetune_operator.controller.history import HistoryKeeper
from finetune_operator.controller.kube import (
    CONFIG_MAPS,
    FINETUNE_JOBS,
    JOBS,
    RESOURCES,
    Api,
    ApiError,
    Body,
    Forbidden,
    Invalid,
    NotFound,
    resource_of,
)
from finetune_operator.controller.observe import Observer
from finetune_operator.controller.status_body import comparable, refusal_text, saying, with_refusal
from finetune_operator.jobs.conditions import Finding
from finetune_operator.jobs.desired import ChildReference, Desired, JobEvent, RenderSettings
from finetune_operator.jobs.lessons import finished_run
from finetune_operator.jobs.names import spec_hash
from finetune_operator.jobs.observed import Observed
from finetune_operator.jobs.stage import stalled
from finetune_operator.jobs.times import text_of
from finetune_operator.jobs.waiting import is_without_volumes

logger = logging.getLogger(__name__)

Decide = Callable[[FineTuneJob, Observed, RenderSettings], Desired]

SUSPEND_MANAGER: Final = f"{FIELD_MANAGER}-suspend"
"""Owns `spec.suspend` of batch Jobs that exist, so that applying it does not give up the rest."""
REFUSED_SECONDS: Final = 60.0
"""Until the API server is asked again after 403 or 422: only a person or a freed quota changes the answer."""


@dataclass(frozen=True)
class Outcome:
    """How one reconcile ended, for the queue and the metrics."""

    result: Literal["done", "gone", "invalid", "refused"]
    requeue_after: float | None = None


class Reconciler:
    """Reconciles one key at a time; the queue sees to it that no key runs twice at once."""

    def __init__(
        self,
        *,
        api: Api,
        cache: Cache,
        observer: Observer,
        events: EventRecorder,
        accounts: Accounts,
        history: HistoryKeeper,
        decide: Decide,
        render: Callable[[], RenderSettings],
        clock: Clock,
    ) -> None:
        self._api = api
        self._cache = cache
        self._observer = observer
        self._events = events
        self._accounts = accounts
        self._history = history
        self._decide = decide
        self._render = render
        self._clock = clock
        self._applied: dict[JobKey, dict[str, str]] = {}

    async def reconcile(self, key: JobKey) -> Outcome:
        """Reconcile the job; every ApiError that time can heal is raised, for the queue to retry."""
        body = self._cache.job(key)
        if body is None or body["metadata"].get("deletionTimestamp"):
            self.forget(key)  # owner references collect the children
            self._accounts.forget(key)
            return Outcome("gone")
        try:
            job = FineTuneJob.from_manifest(body)
        except InvalidJob as error:
            await self._say(key, body, Finding(ConditionType.ACCEPTED, "False", Reason.INVALID_SPEC, str(error)))
            return Outcome("invalid")
        try:
            observed = await self._observer.observe(key, job)
        except (Forbidden, Invalid) as error:
            await self._say(key, body, stalled(refusal_text("a request about", error), Reason.CLUSTER_REFUSED))
            return Outcome("refused", REFUSED_SECONDS)
        except UnreadableDocument as error:
            await self._say(key, body, stalled(str(error)))
            return Outcome("refused", REFUSED_SECONDS)
        if any(is_without_volumes(pod, observed.now) for pod in observed.pods):
            # Its ConfigMap may have been deleted by hand, and these are not watched: the next look reads everything anew.
            self.forget(key)
        desired = self._decide(job, observed, self._render())
        if foreign := await self._foreign(key, job, desired.objects):
            observed = replace(observed, foreign=tuple(sorted({*observed.foreign, *foreign})))
            desired = self._decide(job, observed, self._render())
        refusal: ApiError | None = None
        try:
            await self._carry_out(key, job, desired, set(observed.foreign))
        except (Forbidden, Invalid) as error:
            refusal = error
            logger.warning("the API server refuses an object: %s", error, extra={"job": str(key)})
        status = desired.status
        if refusal is not None:
            status = with_refusal(job, status, refusal, observed.now)
        if not await self._write_status(key, body, status.to_json_dict()):
            return Outcome("gone")
        self._accounts.settle(job, status)
        self._history.note(finished_run(job, status, observed))
        for event in desired.events:
            await self._events.post(key.namespace, key.name, job.metadata.uid, event)
        if refusal is not None:
            said = JobEvent("Warning", Reason.CLUSTER_REFUSED, refusal.message)
            await self._events.post(key.namespace, key.name, job.metadata.uid, said)
            return Outcome("refused", REFUSED_SECONDS)
        if desired.delete_job:
            await self._delete(FINETUNE_JOBS.api_version, FINETUNE_JOBS.kind, key, key.name, job.metadata.uid)
        self._observer.settle(key)
        return Outcome("done", desired.requeue_after)

    def forget(self, key: JobKey) -> None:
        """Drop what is remembered of a job."""
        self._applied.pop(key, None)
        self._observer.forget(key)

    def distrust(self) -> None:
        """Forget what was applied: the next reconcile of each job applies its objects whatever was said of them."""
        self._applied.clear()

    async def _foreign(self, key: JobKey, job: FineTuneJob, objects: Iterable[Body]) -> set[str]:
        """Return Kind/name of the objects that exist and belong to someone else; ask only about those not known yet."""
        found = set()
        known = self._applied.setdefault(key, {})
        for body in objects:
            reference = _reference(body)
            if reference in known or (body["kind"] == JOBS.kind and self._child(key, job, body["metadata"]["name"])):
                continue
            try:
                existing = await self._api.get(resource_of(body), key.namespace, body["metadata"]["name"])
            except NotFound:
                continue
            if controller_uid(existing) != job.metadata.uid:
                found.add(reference)
            elif body["kind"] == JOBS.kind:
                self._cache.put_child(None, existing)
            else:
                known[reference] = (existing["metadata"].get("annotations") or {}).get(SPEC_HASH_ANNOTATION, "")
        return found

    async def _carry_out(self, key: JobKey, job: FineTuneJob, desired: Desired, foreign: set[str]) -> None:
        for body in desired.objects:
            if _reference(body) not in foreign:
                await self._apply(key, job, body)
        for deletion in desired.deletions:
            await self._delete_child(key, job, deletion)

    async def _apply(self, key: JobKey, job: FineTuneJob, body: Body) -> None:
        digest = spec_hash(body)
        known = self._applied.setdefault(key, {})
        reference = _reference(body)
        if body["kind"] == JOBS.kind:
            await self._apply_job(key, job, body)
        elif reference in known and (known[reference] == digest or body.get("immutable")):
            return
        else:
            await self._api.apply(body)
            known[reference] = digest
            if body["kind"] == CONFIG_MAPS.kind:
                self._observer.forget(key)

    async def _apply_job(self, key: JobKey, job: FineTuneJob, body: Body) -> None:
        existing = self._child(key, job, body["metadata"]["name"])
        if existing is None:
            # The answer goes into the cache at once: the next reconcile must not wait for the watch to know it.
            self._cache.put_child(None, await self._api.apply(body))
            return
        suspend = bool(body["spec"].get("suspend", False))
        if existing.job.suspended != suspend and not existing.job.deleting:
            metadata = {"name": existing.job.name, "namespace": key.namespace, "uid": existing.uid}
            part = {"apiVersion": body["apiVersion"], "kind": body["kind"], "metadata": metadata}
            answer = await self._api.apply({**part, "spec": {"suspend": suspend}}, manager=SUSPEND_MANAGER)
            self._cache.put_child(None, answer)

    def _child(self, key: JobKey, job: FineTuneJob, name: str) -> CachedChild | None:
        ours = (child for child in self._cache.children(key) if child.owner_uid == job.metadata.uid)
        return next((child for child in ours if child.job.name == name), None)

    async def _delete_child(self, key: JobKey, job: FineTuneJob, child: ChildReference) -> None:
        resource = RESOURCES[child.api_version, child.kind]
        known = self._child(key, job, child.name) if child.kind == JOBS.kind else None
        try:
            existing = await self._api.get(resource, key.namespace, child.name)
        except NotFound:
            if known is not None:
                # No event tells what is deleted between our first list and the watch's own.
                self._cache.drop_child(key, known)
            return
        if controller_uid(existing) == job.metadata.uid:
            await self._delete(child.api_version, child.kind, key, child.name, existing["metadata"]["uid"])
            self.forget(key)

    async def _delete(self, api_version: str, kind: str, key: JobKey, name: str, uid: str) -> None:
        try:
            await self._api.delete(RESOURCES[api_version, kind], key.namespace, name, uid=uid)
        except NotFound:
            logger.info("%s %s is gone already", kind, name, extra={"job": str(key)})

    async def _write_status(self, key: JobKey, body: Body, status: Body) -> bool:
        """Write the status if it differs; False when the job is gone."""
        # Server-side apply cannot own an empty list, and so would not keep it.
        wanted = {name: value for name, value in status.items() if name != "progress" and value != []}
        if comparable(wanted) == comparable(body.get("status") or {}):
            return True
        # The version fences off a successor of that name (a uid in an applied status is ignored), and stale decisions.
        version = body["metadata"]["resourceVersion"]
        metadata = {"name": key.name, "namespace": key.namespace, "resourceVersion": version}
        whole = {"apiVersion": API_VERSION, "kind": KIND, "metadata": metadata, "status": wanted}
        try:
            self._cache.put_job(None, await self._api.apply(whole, subresource="status"))
        except NotFound:
            return False
        return True

    async def _say(self, key: JobKey, body: Body, finding: Finding) -> None:
        """Say one thing in the status and keep the rest of it, when there is no basis for a decision."""
        await self._write_status(key, body, saying(body, finding, text_of(self._clock.now())))


def _reference(body: Body) -> str:
    return f"{body['kind']}/{body['metadata']['name']}"
