"""How often the cluster's nodes are listed, and what each job sees of them."""

from __future__ import annotations

import logging

import pytest

from finetune_operator.api.pods import Pod
from finetune_operator.controller.inventory import InventoryReader
from finetune_operator.controller.kube import Unavailable
from finetune_operator.testing import FakeApi, FakeClock, node, timed_out


async def test_the_inventory_is_listed_once_a_minute() -> None:
    clock = FakeClock()
    api = FakeApi(clock)
    api.seed(node("a"))
    reader = InventoryReader(api, clock)
    await reader.read()
    api.seed(node("b"))
    assert (await reader.read()).cpu_nodes[0].nodes == 1
    await clock.advance(60)
    assert (await reader.read()).cpu_nodes[0].nodes == 2
    assert len(api.calls) == 2


async def test_a_failed_listing_is_an_error_and_the_next_read_asks_again() -> None:
    clock = FakeClock()
    api = FakeApi(clock)
    api.seed(node("a"))
    reader = InventoryReader(api, clock)
    api.fail("list", timed_out())
    with pytest.raises(Unavailable):
        await reader.read()
    assert (await reader.read()).cpu_nodes[0].nodes == 1


async def test_each_job_sees_the_nodes_that_its_pods_may_run_on_and_nodes_are_listed_once_for_all() -> None:
    clock = FakeClock()
    api = FakeApi(clock)
    api.seed(node("a", labels={"zone": "one"}))
    api.seed(node("b"))
    reader = InventoryReader(api, clock)
    assert (await reader.read(Pod(node_selector={"zone": "one"}))).cpu_nodes[0].nodes == 1
    everything = await reader.read()
    assert everything.cpu_nodes[0].nodes == 2
    assert await reader.read(Pod(labels={"any": "label"})) is everything
    assert len(api.calls) == 1


async def test_gpus_that_nobody_can_use_are_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    clock = FakeClock()
    api = FakeApi(clock)
    api.seed(node("odd", allocatable={"cpu": "8", "memory": "32Gi", "nvidia.com/gpu": "1"}))
    reader = InventoryReader(api, clock)
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            await reader.read()
            await clock.advance(60)
    assert [record.getMessage().partition(";")[0] for record in caplog.records] == [
        "the GPUs of node odd are not used: its GPUs have no label nvidia.com/gpu.product, by which pods find their node"
    ]
