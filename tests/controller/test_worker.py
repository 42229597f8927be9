"""The loops around reconcile: workers that no job can end, and the resync that finds what no watch told."""

from __future__ import annotations

import asyncio

import pytest

from finetune_operator.api.job import FineTuneJob
from finetune_operator.controller.cache import JobKey
from finetune_operator.controller.kube import (
    JOBS,
    TooManyRequests,
)
from finetune_operator.controller.reconcile import Outcome
from finetune_operator.controller.worker import RESYNC_RETRY_SECONDS, relist, resync, work
from finetune_operator.jobs.desired import Desired, RenderSettings
from finetune_operator.jobs.observed import Observed
from finetune_operator.testing import (
    finetune_job,
    indexed_job,
    timed_out,
)
from finetune_operator.testing.reconciling import KEY, Harness, decide_attempt


async def test_an_error_of_one_job_does_not_end_the_worker_and_is_logged_without_its_text(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def broken(job: FineTuneJob, observed: Observed, render: RenderSettings) -> Desired:
        raise KeyError("row content: my secret")

    harness = Harness(broken)
    results: list[str] = []
    worker = asyncio.create_task(
        work(harness.queue, harness.reconciler, harness.clock, lambda result, seconds: results.append(result))
    )
    harness.submit()
    await harness.clock.advance(0.1)
    assert (results, worker.done()) == (["failed"], False)
    assert "KeyError at" in caplog.text
    assert "secret" not in caplog.text
    harness.decide = decide_attempt
    await harness.clock.advance(1)
    assert "done" in results
    harness.queue.close()
    await worker


async def test_a_server_that_asks_for_patience_gets_it() -> None:
    harness = Harness()
    harness.api.fail("apply", TooManyRequests(429, "TooManyRequests", "slow down", 20.0))
    results: list[str] = []
    worker = asyncio.create_task(
        work(harness.queue, harness.reconciler, harness.clock, lambda result, seconds: results.append(result))
    )
    harness.submit()
    await harness.clock.advance(19)
    assert results == ["retried"]
    await harness.clock.advance(2)
    assert "done" in results
    harness.queue.close()
    await worker


async def test_a_resync_finds_what_the_watch_missed_and_looks_at_every_job_within_its_interval() -> None:
    harness = Harness()
    harness.watching = False
    seen: list[JobKey] = []

    class Looks:
        async def reconcile(self, key: JobKey) -> Outcome:
            seen.append(key)
            return Outcome("done")

        def distrust(self) -> None:
            seen.append(JobKey("", "distrust"))

    syncing = asyncio.create_task(
        resync(harness.api, harness.cache, harness.queue, Looks(), harness.clock, namespaces=(), every_seconds=600)
    )
    worker = asyncio.create_task(work(harness.queue, Looks(), harness.clock, lambda result, seconds: None))
    for name in ("a", "b", "c"):
        harness.api.seed(finetune_job(name))
    await harness.clock.advance(601)
    assert seen == [JobKey("", "distrust")]
    await harness.clock.advance(600)
    assert set(seen) >= {JobKey("team", name) for name in ("a", "b", "c")}
    syncing.cancel()
    harness.queue.close()
    await worker


async def test_what_was_deleted_before_the_watch_had_listed_is_noticed_by_an_early_first_resync() -> None:
    harness = Harness()
    harness.submit()
    await harness.reconcile()
    harness.watching = False
    await harness.api.delete(JOBS, "team", "tune-1")
    syncing = asyncio.create_task(
        resync(
            harness.api,
            harness.cache,
            harness.queue,
            harness.reconciler,
            harness.clock,
            namespaces=(),
            every_seconds=600,
            first_seconds=20,
        )
    )
    await harness.clock.advance(20)
    assert harness.cache.children(KEY) == ()
    assert await harness.queue.get() == KEY
    syncing.cancel()


async def test_a_list_that_fails_delays_the_resync_and_does_not_end_it() -> None:
    harness = Harness()
    harness.api.fail("list", timed_out())
    syncing = asyncio.create_task(
        resync(
            harness.api,
            harness.cache,
            harness.queue,
            harness.reconciler,
            harness.clock,
            namespaces=(),
            every_seconds=600,
        )
    )
    await harness.clock.advance(600)
    harness.api.forget_calls()
    await harness.clock.advance(600 + RESYNC_RETRY_SECONDS)
    assert [call.kind for call in harness.api.calls] == ["FineTuneJob", "Job"]
    syncing.cancel()


async def test_listing_finds_jobs_and_children_of_the_named_namespaces_only() -> None:
    harness = Harness()
    harness.watching = False
    harness.submit()
    harness.api.seed(finetune_job("other", "elsewhere"))
    harness.api.seed(indexed_job())
    await relist(harness.api, harness.cache, ("team",))
    assert harness.cache.job_keys() == (KEY,)
    assert [child.job.name for child in harness.cache.children(KEY)] == ["tune-1"]
