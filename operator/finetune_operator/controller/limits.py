"""The limits of namespaces as their jobs see them: ResourceQuotas, annotations and Kueue's queues, read only while something is planned there."""

from __future__ import annotations

import logging
from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

from finetune_operator.controller.clock import Clock
from finetune_operator.controller.kube import NAMESPACES, RESOURCE_QUOTAS, Api, Body, Forbidden, NotFound
from finetune_operator.controller.queues import read_queue
from finetune_operator.planner.limits import NO_LIMITS, Bound, Limits
from finetune_operator.planner.quotas import namespace_limits

logger = logging.getLogger(__name__)

LIMITS_AGE_SECONDS: Final = 2.0
"""A plan made on a quota that was lowered since is refused at its pods, which the job then shows; short, so that this is rare."""
_NAMESPACES_KEPT: Final = 256


@dataclass(frozen=True)
class _Read:
    namespace: Body
    quotas: tuple[Body, ...]
    queue: tuple[Bound, ...]
    at: float


class LimitsReader:
    """Reads a namespace's quotas at most every 2 s: a hundred jobs that are planned at once cost four calls, with Kueue five."""

    def __init__(self, api: Api, clock: Clock, *, maximum_age_seconds: float = LIMITS_AGE_SECONDS) -> None:
        self._api = api
        self._clock = clock
        self._maximum_age = maximum_age_seconds
        self._known: OrderedDict[str, _Read] = OrderedDict()
        self._refused: set[str] = set()

    async def read(self, namespace: str, priority_class: str | None = None) -> Limits:
        """Return what a job of the namespace may take. A refused read bounds nothing and is logged once; other failures raise their ApiError."""
        read = self._known.get(namespace)
        if read is None or self._clock.monotonic() - read.at >= self._maximum_age:
            asked_at = self._clock.monotonic()
            read = _Read(
                await self._namespace(namespace), await self._quotas(namespace), await self._queue(namespace), asked_at
            )
            self._known[namespace] = read
            self._known.move_to_end(namespace)
            if len(self._known) > _NAMESPACES_KEPT:
                self._known.popitem(last=False)
        limits = namespace_limits(read.namespace, read.quotas, priority_class)
        limits = limits.model_copy(update={"bounds": (*limits.bounds, *read.queue)})
        is_bounded = limits.bounds or limits.gpu_products or limits.max_gpus is not None or limits.problem
        return limits if is_bounded else NO_LIMITS

    async def _namespace(self, name: str) -> Body:
        try:
            return await self._api.get(NAMESPACES, "", name)
        except NotFound:
            return {}
        except Forbidden as error:
            self._tell("annotations of namespaces", "get on namespaces", error)
            return {}

    async def _quotas(self, namespace: str) -> tuple[Body, ...]:
        try:
            return (await self._api.list(RESOURCE_QUOTAS, namespace)).items
        except Forbidden as error:
            self._tell("ResourceQuotas", "list on resourcequotas", error)
            return ()

    async def _queue(self, namespace: str) -> tuple[Bound, ...]:
        return await read_queue(self._api, namespace, self._tell_queues)

    def _tell_queues(self, error: Forbidden) -> None:
        self._tell("Kueue's queues", "get on localqueues and clusterqueues and list on resourceflavors", error)

    def _tell(self, what: str, permission: str, error: Forbidden) -> None:
        if what not in self._refused:
            self._refused.add(what)
            logger.warning("%s cannot be read, plans are not bounded by them; grant %s: %s", what, permission, error)
