"""The operator's own Prometheus metrics, in a registry of their own.

Counters carry no job names: a series that appears with a job and vanishes with it cannot be added up, and their number
would grow for ever. Only the final values of finished jobs are named, as gauges of the last `FINISHED_JOBS_KEPT` jobs:
a training pod vanishes, sometimes before it was scraped, and with it all that it exported.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final, Literal

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.registry import Collector

from finetune_operator.api.constants import OPERATOR_METRICS_PREFIX
from finetune_operator.api.reasons import JobState, Reason
from finetune_operator.api.time_spent import TimeAccount

FINISHED_JOBS_KEPT: Final = 500

_NAMESPACE: Final = OPERATOR_METRICS_PREFIX.rstrip("_")
_RECONCILE_BUCKETS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_WAIT_BUCKETS: Final = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 10, 30, 60, 300)
_RECOVERY_BUCKETS: Final = (10, 20, 30, 45, 60, 90, 120, 180, 300, 600, 1800, 3600)
_ERROR_BUCKETS: Final = (-0.5, -0.3, -0.2, -0.1, -0.05, 0, 0.05, 0.1, 0.2, 0.3, 0.5, 1)
PROMETHEUS_CONTENT_TYPE: Final = CONTENT_TYPE_LATEST


@dataclass(frozen=True)
class FinishedJob:
    """What is worth keeping of a finished job; None where it was never reported."""

    namespace: str
    job: str
    succeeded: bool
    attempts: int
    seconds: float
    steps: int | None = None
    loss: float | None = None
    peak_memory_bytes: int | None = None
    expected_memory_bytes: int | None = None
    figures: tuple[tuple[str, str, float], ...] = ()
    """Of the evaluation after the training: metric, model (base or tuned), value."""


class OperatorMetrics:
    """Every metric of the operator; docs/reference/metrics.md describes each, and a test compares the two."""

    def __init__(self) -> None:
        # For the whole process: the client's `_created` series would double what is stored and tell nothing.
        disable_created_metrics()
        self.registry: Final = CollectorRegistry()
        self.reconcile_total: Final = self._counter("reconcile", "Reconciliations by result.", "result")
        self.reconcile_seconds: Final = self._histogram(
            "reconcile_seconds", "Seconds of one reconciliation.", _RECONCILE_BUCKETS
        )
        self.workqueue_depth: Final = self._gauge("workqueue_depth", "Keys that wait for a worker.")
        self.workqueue_wait_seconds: Final = self._histogram(
            "workqueue_wait_seconds", "Seconds that a key waited for a worker.", _WAIT_BUCKETS
        )
        self.api_requests_total: Final = self._counter(
            "api_requests", "Requests to the API server; code 0 means that no answer came.", "verb", "code"
        )
        self.watch_last_event_age_seconds: Final = self._gauge(
            "watch_last_event_age_seconds", "Seconds since the last event or listing of a kind.", "kind"
        )
        self.leader: Final = self._gauge("leader", "1 in the replica that reconciles, 0 in the others.")
        self.jobs: Final = self._gauge("jobs", "FineTuneJobs by state, as the leader sees them.", "state")
        self.progress_reports_total: Final = self._counter(
            "progress_reports", "Reports that pods sent, by kind and result.", "kind", "result"
        )
        self.events_total: Final = self._counter("events", "Kubernetes Events written, by reason.", "reason")
        self.attempts_total: Final = self._counter("attempts", "Attempts that ended, by first cause.", "reason")
        self.checkpoints_rejected_total: Final = self._counter(
            "checkpoints_rejected",
            "Checkpoints that were damaged or cut off when an attempt wanted to resume from them.",
        )
        self.productive_gpu_seconds_total: Final = self._counter(
            "productive_gpu_seconds",
            "GPU-seconds of steps made for the first time, of attempts that ended.",
            "accelerator",
        )
        self.lost_gpu_seconds_total: Final = self._counter(
            "lost_gpu_seconds", "GPU-seconds of attempts that ended, by what they were lost to.", "cause", "accelerator"
        )
        self.waiting_seconds_total: Final = self._counter(
            "waiting_seconds", "Seconds that jobs waited without GPUs, by what for, of attempts that ended.", "cause"
        )
        self.recovery_seconds: Final = self._histogram(
            "recovery_seconds", "Seconds from the end of an attempt to the first step of the next.", _RECOVERY_BUCKETS
        )
        self.plan_memory_error_ratio: Final = self._histogram(
            "plan_memory_error_ratio", "Measured peak memory over the expected one, minus 1.", _ERROR_BUCKETS
        )
        self._finished = _FinishedJobs()
        self.registry.register(self._finished)

    def observe_request(self, verb: str, status: int) -> None:
        """Count one request to the API server; fits `KubernetesApi(on_request=)`."""
        self.api_requests_total.labels(verb, str(status)).inc()

    def observe_reconcile(self, result: str, seconds: float) -> None:
        """Count one reconciliation."""
        self.reconcile_total.labels(result).inc()
        self.reconcile_seconds.observe(seconds)

    def set_jobs(self, counts: Mapping[JobState, int]) -> None:
        """Show how many jobs are in which state; states that are not named are empty."""
        for state in JobState:
            self.jobs.labels(state.value).set(counts.get(state, 0))

    def attempt_ended(self, reason: Reason) -> None:
        """Count an attempt by the first cause of its end."""
        self.attempts_total.labels(reason.value).inc()

    def attempt_accounted(self, account: TimeAccount, accelerator: Literal["gpu", "cpu"]) -> None:
        """Add where the time of an attempt went."""
        self.productive_gpu_seconds_total.labels(accelerator).inc(account.productive_gpu_seconds)
        for cause, seconds in (account.lost_gpu_seconds or {}).items():
            self.lost_gpu_seconds_total.labels(cause, accelerator).inc(seconds)
        for cause, seconds in (account.waiting_seconds or {}).items():
            self.waiting_seconds_total.labels(cause).inc(seconds)

    def track_watch(self, kind: str, age_seconds: Callable[[], float]) -> None:
        """Show the age of the last event of a kind, asked for at every scrape."""
        self.watch_last_event_age_seconds.labels(kind).set_function(age_seconds)

    def job_finished(self, finished: FinishedJob) -> None:
        """Keep a finished job's final values and the error of its plan; telling it twice changes nothing."""
        is_new = self._finished.put(finished)
        if is_new and finished.peak_memory_bytes and finished.expected_memory_bytes:
            self.plan_memory_error_ratio.observe(finished.peak_memory_bytes / finished.expected_memory_bytes - 1)

    def job_deleted(self, namespace: str, job: str) -> None:
        """Forget a job's final values."""
        self._finished.forget(namespace, job)

    def render(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
        return generate_latest(self.registry)

    def _counter(self, name: str, documentation: str, *labels: str) -> Counter:
        return Counter(name, documentation, labels, namespace=_NAMESPACE, registry=self.registry)

    def _gauge(self, name: str, documentation: str, *labels: str) -> Gauge:
        return Gauge(name, documentation, labels, namespace=_NAMESPACE, registry=self.registry)

    def _histogram(self, name: str, documentation: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(name, documentation, namespace=_NAMESPACE, registry=self.registry, buckets=buckets)


_FINAL_VALUES: Final[Mapping[str, tuple[str, Callable[[FinishedJob], float | None]]]] = {
    "job_succeeded": ("1 when the finished job is Complete, 0 when it is Failed.", lambda job: float(job.succeeded)),
    "job_attempts": ("Attempts that the finished job needed.", lambda job: job.attempts),
    "job_seconds": ("Seconds from the finished job's first attempt to its end.", lambda job: job.seconds),
    "job_steps": ("Optimizer steps of the finished job.", lambda job: job.steps),
    "job_loss": ("Last training loss of the finished job.", lambda job: job.loss),
    "job_peak_memory_bytes": ("Highest measured peak memory of a process.", lambda job: job.peak_memory_bytes),
    "job_expected_memory_bytes": (
        "Peak memory of a process that the plan expected.",
        lambda job: job.expected_memory_bytes,
    ),
}


class _FinishedJobs(Collector):
    """The final values of the jobs that finished last."""

    def __init__(self) -> None:
        self._jobs: OrderedDict[tuple[str, str], FinishedJob] = OrderedDict()

    def put(self, finished: FinishedJob) -> bool:
        key = (finished.namespace, finished.job)
        is_new = self._jobs.pop(key, None) != finished
        self._jobs[key] = finished
        if len(self._jobs) > FINISHED_JOBS_KEPT:
            self._jobs.popitem(last=False)
        return is_new

    def forget(self, namespace: str, job: str) -> None:
        self._jobs.pop((namespace, job), None)

    def collect(self) -> Iterable[GaugeMetricFamily]:
        for name, (documentation, value_of) in _FINAL_VALUES.items():
            family = GaugeMetricFamily(f"{OPERATOR_METRICS_PREFIX}{name}", documentation, labels=["namespace", "job"])
            for job in self._jobs.values():
                value = value_of(job)
                if value is not None:
                    family.add_metric([job.namespace, job.job], value)
            yield family
        family = GaugeMetricFamily(
            f"{OPERATOR_METRICS_PREFIX}job_evaluation",
            "What the evaluation after the training measured of the finished job's base and tuned model.",
            labels=["namespace", "job", "metric", "model"],
        )
        for job in self._jobs.values():
            for metric, model, value in job.figures:
                family.add_metric([job.namespace, job.job, metric, model], value)
        yield family
