"""The shell: an event becomes a cached object and a key in the queue, and kopf is set up not to write anything."""

from __future__ import annotations

from typing import Any

import kopf
from kubernetes.aio.client import Configuration

from finetune_operator.api.constants import JOB_LABEL
from finetune_operator.controller.cache import Cache, JobKey
from finetune_operator.controller.shell import event_handlers, login_with, register, shell_settings
from finetune_operator.controller.workqueue import WorkQueue
from finetune_operator.testing import FakeApi, FakeClock, finetune_job, indexed_job

KEY = JobKey("team", "tune")


def stored(body: dict[str, Any]) -> dict[str, Any]:
    return FakeApi().seed(body)


async def test_an_event_of_a_job_is_cached_and_its_key_queued() -> None:
    cache, queue = Cache(), WorkQueue[JobKey](FakeClock())
    on_job, _ = event_handlers(cache, queue)
    on_job("ADDED", stored(finetune_job()))
    assert await queue.get() == KEY
    assert cache.job_keys() == (KEY,)


async def test_an_event_of_a_child_queues_the_job_that_it_belongs_to() -> None:
    cache, queue = Cache(), WorkQueue[JobKey](FakeClock())
    _, on_child = event_handlers(cache, queue)
    on_child("MODIFIED", stored(indexed_job()))
    assert await queue.get() == KEY
    assert [child.job.name for child in cache.children(KEY)] == ["tune-1"]


async def test_a_deletion_is_queued_too() -> None:
    cache, queue = Cache(), WorkQueue[JobKey](FakeClock())
    on_job, _ = event_handlers(cache, queue)
    on_job("DELETED", stored(finetune_job()))
    assert (await queue.get(), cache.job_keys()) == (KEY, ())


async def test_a_batch_job_that_is_not_ours_is_passed_over() -> None:
    queue = WorkQueue[JobKey](FakeClock())
    _, on_child = event_handlers(Cache(), queue)
    body = stored(indexed_job())
    body["metadata"]["labels"] = {}
    on_child("ADDED", body)
    assert len(queue) == 0


def test_kopf_has_stateless_handlers_only_so_that_it_never_writes() -> None:
    registry = kopf.OperatorRegistry()
    register(registry, Cache(), WorkQueue[JobKey](FakeClock()), login_with(Configuration()))
    assert len(registry._watching.get_all_handlers()) == 2
    assert not registry._changing.get_all_handlers()
    assert not registry._spawning.get_all_handlers()
    assert not registry._indexing.get_all_handlers()


def test_batch_jobs_are_selected_by_the_server_and_nobody_is_paused() -> None:
    settings = shell_settings()
    assert settings.watching.label_selectors["batch", "v1", "jobs"] == JOB_LABEL
    assert settings.peering.standalone
    assert settings.scanning.disabled
    assert not settings.posting.enabled
    assert settings.queueing.worker_limit is None


async def test_kopf_logs_in_by_the_configuration_of_our_client_and_takes_a_renewed_token() -> None:
    configuration = Configuration()
    configuration.host = "https://server"
    configuration.api_key["BearerToken"] = "bearer one"
    login = login_with(configuration)
    first = await login()
    configuration.api_key["BearerToken"] = "bearer two"
    second = await login()
    assert (first.server, first.token, second.token) == ("https://server", "one", "two")
