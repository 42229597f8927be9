"""The operator's metrics: their names and labels are an interface, and no counter names a job."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from finetune_operator.api.reasons import JobState, Reason
from finetune_operator.controller.metrics import FINISHED_JOBS_KEPT, FinishedJob, OperatorMetrics


def value(metrics: OperatorMetrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(f"finetune_operator_{name}", labels)


def finished(job: str = "tune", **parts: float | bool | None) -> FinishedJob:
    values: dict[str, object] = {"succeeded": True, "attempts": 1, "seconds": 60.0, **parts}
    return FinishedJob(namespace="team", job=job, **values)


def test_every_metric_has_the_operators_prefix_and_a_description() -> None:
    metrics = OperatorMetrics()
    metrics.job_finished(finished(loss=0.5))
    families = list(text_string_to_metric_families(metrics.render().decode()))
    assert families
    assert all(family.name.startswith("finetune_operator_") and family.documentation for family in families)


def test_no_counter_and_no_histogram_names_a_job() -> None:
    metrics = OperatorMetrics()
    metrics.observe_request("apply", 200)
    metrics.observe_reconcile("ok", 0.01)
    metrics.attempt_ended(Reason.RANK_KILLED)
    metrics.progress_reports_total.labels("progress", "written").inc()
    metrics.job_finished(finished(peak_memory_bytes=12, expected_memory_bytes=10))
    for family in text_string_to_metric_families(metrics.render().decode()):
        if family.type != "gauge":
            assert not {"job", "namespace"} & {label for sample in family.samples for label in sample.labels}


def test_requests_are_counted_by_verb_and_code() -> None:
    metrics = OperatorMetrics()
    metrics.observe_request("apply", 409)
    metrics.observe_request("apply", 0)
    assert value(metrics, "api_requests_total", verb="apply", code="409") == 1
    assert value(metrics, "api_requests_total", verb="apply", code="0") == 1


def test_a_reconcile_is_counted_and_timed() -> None:
    metrics = OperatorMetrics()
    metrics.observe_reconcile("retry", 0.25)
    assert value(metrics, "reconcile_total", result="retry") == 1
    assert value(metrics, "reconcile_seconds_sum") == 0.25


def test_states_without_jobs_show_zero() -> None:
    metrics = OperatorMetrics()
    metrics.set_jobs({JobState.RUNNING: 3})
    metrics.set_jobs({JobState.COMPLETE: 3})
    assert value(metrics, "jobs", state="Running") == 0
    assert value(metrics, "jobs", state="Complete") == 3


def test_the_age_of_a_watch_is_asked_for_at_the_scrape() -> None:
    metrics = OperatorMetrics()
    age = [1.0]
    metrics.track_watch("Job", lambda: age[0])
    age[0] = 7.0
    assert value(metrics, "watch_last_event_age_seconds", kind="Job") == 7.0


def test_a_finished_jobs_last_values_stay_after_its_pods_are_gone() -> None:
    metrics = OperatorMetrics()
    metrics.job_finished(finished(loss=0.25, steps=300, peak_memory_bytes=10))
    assert value(metrics, "job_loss", namespace="team", job="tune") == 0.25
    assert value(metrics, "job_steps", namespace="team", job="tune") == 300
    assert value(metrics, "job_expected_memory_bytes", namespace="team", job="tune") is None


def test_a_deleted_jobs_values_go() -> None:
    metrics = OperatorMetrics()
    metrics.job_finished(finished())
    metrics.job_deleted("team", "tune")
    assert value(metrics, "job_succeeded", namespace="team", job="tune") is None


def test_only_the_jobs_that_finished_last_are_named() -> None:
    metrics = OperatorMetrics()
    for number in range(FINISHED_JOBS_KEPT + 1):
        metrics.job_finished(finished(f"job-{number}"))
    assert value(metrics, "job_succeeded", namespace="team", job="job-0") is None
    assert value(metrics, "job_succeeded", namespace="team", job=f"job-{FINISHED_JOBS_KEPT}") == 1


def test_the_plans_error_is_measured_once_per_job_however_often_it_is_reconciled() -> None:
    metrics = OperatorMetrics()
    for _ in range(3):
        metrics.job_finished(finished(peak_memory_bytes=12, expected_memory_bytes=10))
    assert value(metrics, "plan_memory_error_ratio_count") == 1
    assert value(metrics, "plan_memory_error_ratio_bucket", le="0.2") == 1
    assert value(metrics, "plan_memory_error_ratio_bucket", le="0.1") == 0


def test_two_operators_in_one_process_do_not_share_metrics() -> None:
    first, second = OperatorMetrics(), OperatorMetrics()
    first.leader.set(1)
    assert value(second, "leader") == 0
