"""The cluster's inventory as jobs see it, read from the API server at most once a minute."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Final

from finetune_operator.api.pods import Pod
from finetune_operator.controller.clock import Clock
from finetune_operator.controller.kube import NODES, Api
from finetune_operator.planner.inventory import Inventory
from finetune_operator.planner.nodes import NodeFacts, offered, read_nodes

logger = logging.getLogger(__name__)

INVENTORY_AGE_SECONDS: Final = 60.0
_KINDS_OF_PODS_KEPT: Final = 256
"""Inventories of jobs with different node selectors or tolerations that are kept until the next reading."""


class InventoryReader:
    """The cluster's inventory: a hundred jobs that are planned at once cost one list call."""

    def __init__(self, api: Api, clock: Clock, *, maximum_age_seconds: float = INVENTORY_AGE_SECONDS) -> None:
        self._api = api
        self._clock = clock
        self._maximum_age = maximum_age_seconds
        self._nodes: tuple[NodeFacts, ...] = ()
        self._inventories: dict[str, Inventory] = {}
        self._told: frozenset[str] = frozenset()
        self._read_at: float | None = None

    async def read(self, pod: Pod | None = None) -> Inventory:
        """Return what a job whose pods are like `pod` can use, at most `maximum_age_seconds` old; a failed list call raises its ApiError."""
        if self._read_at is None or self._clock.monotonic() - self._read_at >= self._maximum_age:
            asked_at = self._clock.monotonic()
            self._nodes = read_nodes((await self._api.list(NODES)).items)
            self._inventories.clear()
            self._read_at = asked_at
            self._tell_problems(self._nodes)
        key = _placement(pod or Pod())
        if key not in self._inventories:
            if len(self._inventories) >= _KINDS_OF_PODS_KEPT:
                self._inventories.clear()
            self._inventories[key] = offered(self._nodes, pod)
        return self._inventories[key]

    def _tell_problems(self, nodes: Sequence[NodeFacts]) -> None:
        """Log once of each node why its GPUs cannot be used by anybody; jobs say it in their plans."""
        problems = {node.name: node.gpu_problem for node in nodes if node.gpu_problem}
        for name in sorted(problems.keys() - self._told):
            logger.warning("the GPUs of node %s are not used: %s", name, problems[name])
        self._told = frozenset(problems)


def _placement(pod: Pod) -> str:
    """What of a pod decides where it may run."""
    return pod.model_dump_json(include={"node_selector", "tolerations"})
