"""What Kueue lets the jobs of a namespace take, where Kueue is installed.

A batch Job that names no queue goes to LocalQueue `default` of its namespace, if there is one (Kueue's LocalQueueDefaulting). Jobs of ours name none.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from finetune_operator.controller.kube import CLUSTER_QUEUES, LOCAL_QUEUES, RESOURCE_FLAVORS, Api, Forbidden, NotFound
from finetune_operator.planner.limits import Bound
from finetune_operator.planner.quotas import queue_bounds

DEFAULT_QUEUE: Final = "default"


async def read_queue(api: Api, namespace: str, on_forbidden: Callable[[Forbidden], None]) -> tuple[Bound, ...]:
    """Return what the ClusterQueue behind the namespace's default LocalQueue admits at most; nothing where there is none.

    A refused read bounds nothing and is told to `on_forbidden`; other failures raise their ApiError.
    """
    for local_queues, cluster_queues, flavors in zip(LOCAL_QUEUES, CLUSTER_QUEUES, RESOURCE_FLAVORS, strict=True):
        try:
            local = await api.get(local_queues, namespace, DEFAULT_QUEUE)
            queue = await api.get(cluster_queues, "", (local.get("spec") or {}).get("clusterQueue", ""))
            return queue_bounds(queue, (await api.list(flavors)).items)
        except NotFound:
            continue  # another version of Kueue's API, no Kueue, no such queue
        except Forbidden as error:
            on_forbidden(error)
            return ()
    return ()
