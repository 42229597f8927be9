"""The Prometheus metrics of one rank, served on the attempt's metrics port + local rank."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, start_http_server

from finetune_operator.api.constants import METRICS_PREFIX
from finetune_operator.api.measures import MEASURES
from finetune_operator.api.plan import AttemptFile
from finetune_operator.api.time_spent import TRAINER_CAUSES
from finetune_trainer.measure import Memory

LABELS: Final = ("namespace", "job", "attempt", "rank")


@dataclass(frozen=True)
class Described:
    """A metric's name without the prefix, and its meaning."""

    name: str
    meaning: str


GAUGES: Final = (
    Described("step", "Optimizer steps finished."),
    Described("total_steps", "Optimizer steps of the whole job."),
    Described("loss", "Loss of the last step: mean over the counted tokens of all ranks."),
    Described("eval_loss", "Loss of the last evaluation: mean over the counted tokens of the evaluation rows."),
    Described("learning_rate", "Learning rate of the last step."),
    Described("gradient_norm", "Norm of the gradients of the last step, before clipping."),
    Described("step_seconds", "Duration of the last step."),
    Described("data_wait_seconds", "Time of the last step spent on waiting for its batches."),
    Described("tokens_per_second", "Tokens of all ranks per second in the last step, padding not counted."),
    Described(
        "model_flops_utilization", "Share of the GPU's dense bf16 FLOP/s that the last step used (MFU); absent on CPU."
    ),
    Described("memory_allocated_bytes", "GPU memory in use by tensors; on CPU the resident set."),
    Described("memory_reserved_bytes", "GPU memory reserved by torch; on CPU the resident set."),
    Described("memory_peak_bytes", "Highest memory_reserved_bytes since the process started."),
    Described("checkpoint_step", "Step of the newest committed checkpoint."),
    Described("checkpoint_seconds", "Duration of the last checkpoint, from the start of the save to the commit."),
    Described("checkpoint_stall_seconds", "Part of it in which no step was made: the copy to host memory."),
    Described("checkpoint_bytes", "Size of the last committed checkpoint."),
    Described(
        "own_seconds",
        "Median over 20 steps of what this rank spends by itself in one: reading batches, computing layers.",
    ),
    Described(
        "slowness_ratio", "own_seconds over the median of the other ranks; 1.5 and more can make the rank a slow one."
    ),
    Described(
        "evaluated_rows",
        "Rows that the evaluation after the training has measured, once per model and metric that looks at rows by itself.",
    ),
    Described("evaluation_rows", "Rows that it is to measure in all, as far as is known."),
    Described("start_seconds", "Time from the start of the process to the first step."),
)
COUNTERS: Final = (
    Described("tokens", "Tokens of all ranks that this process has seen trained, padding not counted."),
    Described("checkpoints", "Checkpoints committed."),
    Described(
        "checkpoints_rejected",
        "Checkpoints that were damaged or cut off when the attempt looked for one to resume from.",
    ),
    Described("checkpoint_failures", "Checkpoints that could not be uploaded."),
    Described("model_cache_hits", "Times the model was in the cache (model.cache), verified."),
    Described("model_cache_misses", "Times this process downloaded the model into the cache."),
    Described(
        "model_cache_rejected",
        "Times the model was in the cache with other bytes than were downloaded; it was fetched anew.",
    ),
    Described(
        "checkpoint_retries",
        "Times that a file of a checkpoint was sent once more, because the store failed or refused.",
    ),
    Described("tracker_failures", "Times that a tracker, or the upload of its files, began to fail."),
    Described("report_failures", "Progress reports that the operator did not take."),
)
BADPUT: Final = Described(
    "badput_seconds", f"Time in which no step was made, or one a second time, by cause: {', '.join(TRAINER_CAUSES)}."
)
MEASURE: Final = Described("measure", "What the last step measured beside its loss, by label measure.")
EVALUATION_MEASURE: Final = Described(
    "eval_measure", "What the last evaluation measured beside its loss, by label measure."
)


class RankMetrics:
    """All metrics of one rank, with their labels filled in."""

    def __init__(self, attempt: AttemptFile, rank: int) -> None:
        self.registry = CollectorRegistry()
        self._labels = {
            "namespace": attempt.namespace,
            "job": attempt.name,
            "attempt": str(attempt.attempt),
            "rank": str(rank),
        }
        self._gauges = {
            metric.name: Gauge(METRICS_PREFIX + metric.name, metric.meaning, LABELS, registry=self.registry)
            for metric in GAUGES
        }
        self._counters = {
            metric.name: Counter(METRICS_PREFIX + metric.name, metric.meaning, LABELS, registry=self.registry)
            for metric in COUNTERS
        }
        self.lost: dict[str, float] = {}
        """Seconds by cause of badput so far."""
        self._badput = Counter(METRICS_PREFIX + BADPUT.name, BADPUT.meaning, (*LABELS, "cause"), registry=self.registry)
        self._measures = Gauge(
            METRICS_PREFIX + MEASURE.name, MEASURE.meaning, (*LABELS, "measure"), registry=self.registry
        )
        self._evaluation_measures = Gauge(
            METRICS_PREFIX + EVALUATION_MEASURE.name,
            EVALUATION_MEASURE.meaning,
            (*LABELS, "measure"),
            registry=self.registry,
        )
        for counter in self._counters.values():
            counter.labels(**self._labels)
        for cause in TRAINER_CAUSES:
            self._badput.labels(**self._labels, cause=cause)

    def serve(self, port: int) -> None:
        """Serve /metrics; a port that is taken (several local runs) costs the metrics, never the training."""
        try:
            start_http_server(port, registry=self.registry)
        except OSError as error:
            print(f"no /metrics on port {port}: {error.strerror}", flush=True)

    def set(self, name: str, value: float) -> None:
        """Set a gauge."""
        self._gauges[name].labels(**self._labels).set(value)

    def measure(self, name: str, value: float) -> None:
        """Set one of finetune_operator.api.measures, or a part of it (reward:<name>); another name is a KeyError."""
        if name.partition(":")[0] not in MEASURES:
            raise KeyError(name)
        self._measures.labels(**self._labels, measure=name).set(value)

    def evaluation_measure(self, name: str, value: float) -> None:
        """Set one of finetune_operator.api.measures for the evaluation rows; another name is a KeyError."""
        if name not in MEASURES:
            raise KeyError(name)
        self._evaluation_measures.labels(**self._labels, measure=name).set(value)

    def count(self, name: str, amount: float = 1.0) -> None:
        """Raise a counter."""
        self._counters[name].labels(**self._labels).inc(amount)

    def badput(self, cause: str, seconds: float) -> None:
        """Add time in which no step was made."""
        seconds = max(0.0, seconds)
        self.lost[cause] = self.lost.get(cause, 0.0) + seconds
        self._badput.labels(**self._labels, cause=cause).inc(seconds)

    def set_memory(self, memory: Memory) -> None:
        """Set the memory gauges."""
        self.set("memory_allocated_bytes", memory.allocated)
        self.set("memory_reserved_bytes", memory.reserved)
        self.set("memory_peak_bytes", memory.peak)

    def value(self, name: str) -> float | None:
        """Return a metric's value as it would be scraped (a counter's by its name with `_total`), None where it was never set."""
        return self.registry.get_sample_value(METRICS_PREFIX + name, self._labels)
