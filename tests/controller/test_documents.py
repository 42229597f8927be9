"""Reports and attempt files: read on demand, remembered within bounds, never somebody else's."""

from __future__ import annotations

from typing import Any

from finetune_operator.api.constants import INSPECTION_FILE, INSPECTION_KEY_LABEL, JOB_LABEL, PLAN_FILE
from finetune_operator.api.inspection import InspectionReport
from finetune_operator.api.job import FineTuneJob
from finetune_operator.api.plan import AttemptFile
from finetune_operator.controller.cache import JobKey
from finetune_operator.controller.documents import Documents, DocumentStore
from finetune_operator.controller.inspection_reports import store_inspection
from finetune_operator.jobs.testing import make_plan, make_report
from finetune_operator.testing import FakeApi, config_map, finetune_job, owned_by

KEY = JobKey("team", "tune")


class Namespace:
    """A fake API server with one job, and the store under test."""

    def __init__(self, **options: Any) -> None:
        self.api = FakeApi()
        self.body = self.api.seed(finetune_job())
        self.job = FineTuneJob.from_manifest(self.body)
        self.uid = self.job.metadata.uid
        self.store = DocumentStore(self.api, **options)

    async def read(self, inspect_version: str = "1") -> Documents:
        return await self.store.of_job(KEY, self.uid, inspect_version)

    async def inspect(self, **changes: Any) -> InspectionReport:
        report = make_report(self.job).model_copy(update=changes)
        await store_inspection(self.api, self.body, report)
        return report

    def attempt(self, number: int, owner: dict[str, Any] | None = None) -> AttemptFile:
        file = AttemptFile(
            namespace="team", name="tune", uid=self.uid, attempt=number, spec=self.job.spec,
            inspection=make_report(self.job), plan=make_plan(), checkpoint_uri="s3://models/tune/checkpoints",
        )  # fmt: skip
        data = {PLAN_FILE: file.model_dump_json(by_alias=True)}
        self.api.seed(owned_by(owner or self.body, config_map(f"tune-{number}", data, labels={JOB_LABEL: "tune"})))
        return file


async def test_a_job_without_config_maps_has_no_documents() -> None:
    assert await Namespace().read() == Documents()


async def test_report_and_attempts_are_found_by_one_list() -> None:
    namespace = Namespace()
    report = await namespace.inspect()
    files = {number: namespace.attempt(number) for number in (1, 2)}
    namespace.api.forget_calls()
    documents = await namespace.read()
    assert (documents.inspection, dict(documents.attempts)) == (report, files)
    assert [call.verb for call in namespace.api.calls] == ["list"]


async def test_what_was_read_is_remembered_until_the_inspect_job_changes() -> None:
    namespace = Namespace()
    await namespace.inspect()
    await namespace.read()
    namespace.api.forget_calls()
    await namespace.read()
    assert namespace.api.calls == []
    await namespace.read(inspect_version="2")
    assert len(namespace.api.calls) == 1


async def test_while_there_is_no_report_each_look_is_a_fresh_one() -> None:
    namespace = Namespace()
    await namespace.read()
    report = await namespace.inspect()
    assert (await namespace.read()).inspection == report


async def test_documents_of_a_predecessor_or_of_anybody_else_are_foreign() -> None:
    namespace = Namespace()
    namespace.attempt(1, owner={"apiVersion": "x", "kind": "FineTuneJob", "metadata": {"name": "tune", "uid": "old"}})
    documents = await namespace.read()
    assert (dict(documents.attempts), documents.foreign) == ({}, ("tune-1",))


async def test_memory_is_bounded_by_the_size_of_what_is_kept() -> None:
    namespace = Namespace(kept_bytes=10)
    await namespace.inspect()
    await namespace.read()
    namespace.api.forget_calls()
    await namespace.read()
    assert len(namespace.api.calls) == 1


async def test_the_newest_report_about_equal_inputs_is_found_whatever_job_it_was_for() -> None:
    namespace = Namespace()
    newest = await namespace.inspect(finished_at="2026-01-02T00:00:00Z")
    older = newest.model_copy(update={"finished_at": "2026-01-01T00:00:00Z"})
    data = {INSPECTION_FILE: older.model_dump_json(by_alias=True)}
    namespace.api.seed(config_map("other-inspection", data, labels={INSPECTION_KEY_LABEL: newest.key}))
    assert await namespace.store.inspection_of_equals("team", newest.key) == newest
    assert await namespace.store.inspection_of_equals("elsewhere", newest.key) is None
