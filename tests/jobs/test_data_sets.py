"""Jobs of several data sets: each is judged by its own limit, and named in what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from finetune_operator.api.inspection import SourceFacts
from finetune_operator.api.job import FineTuneJob
from finetune_operator.api.reasons import JobState
from finetune_operator.jobs.inspection import inspected, unusable
from finetune_operator.jobs.testing.builders import make_job, make_report


def job_of(*datasets: dict[str, Any]) -> FineTuneJob:
    return make_job(dataset=None, datasets=list(datasets))


A, B = "s3://data/a.jsonl", "s3://data/b.jsonl"


def source(uri: str, *, usable: int, dropped: int, weight: float = 1.0) -> SourceFacts:
    rows = int(usable * weight)
    return SourceFacts(uri=uri, format="text", weight=weight, files=(), usable=usable, rows=rows, dropped=dropped)


@pytest.mark.parametrize(("allowed", "refused"), [(0.05, True), (0.2, False)])
def test_a_reused_report_is_judged_data_set_by_data_set(allowed: float, refused: bool) -> None:
    job = job_of({"uri": A, "weight": 100}, {"uri": B, "filters": {"maxDropped": allowed}})
    sources = (source(A, usable=1000, dropped=0, weight=100), source(B, usable=9, dropped=1))
    report = make_report(job, rows=100_009, dropped=1, sources=sources)
    stage = unusable(job, report)
    assert (stage is not None) is refused
    if stage is not None:
        assert stage.state is JobState.FAILED
        assert f"1 of 10 rows of {B} are unusable (10.0%; dataset.filters.maxDropped allows 5.0%)" in stage.message
    assert "100009 rows of 2 data sets, 1 unusable rows left out" in inspected(job, report).message
