"""The report of a local run names every place of the result."""

from __future__ import annotations

from finetune_operator.api.manifest import FileEntry
from finetune_operator.api.run_events import PublishEvent
from finetune_operator.cli.run_report import RunRecord
from finetune_operator.planner.testing import good, plan_of, spec_of

SENT = ("oci://registry.example.com/team/bot:v1@sha256:c0ffee", "hf://team/bot@c0ffee")


def test_every_place_that_was_published_to_is_named() -> None:
    record = RunRecord()
    plan = good(plan_of(spec_of(method="lora")))
    assert record.report(plan)["artifact"] == {}
    files = (FileEntry(name="README.md", size=1, sha256="0" * 64),)
    record.add(PublishEvent(uri="s3://models/bot", files=files, destinations=SENT))
    artifact = record.report(plan)["artifact"]
    assert (artifact["uri"], artifact["destinations"]) == ("s3://models/bot", list(SENT))
    assert [entry["name"] for entry in artifact["files"]] == ["README.md"]
