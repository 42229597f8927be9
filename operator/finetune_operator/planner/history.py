"""What finished jobs teach the planner: how far its formulas are off for jobs of a kind, learned slowly and within bounds.

A correction is a factor. It is shrunk towards 1 (few runs move little), taken from medians (one wrong run moves little), and bounded. Measurements
can be wrong: a pod that was measured before its longest batch, another library, a ConfigMap that somebody edited. So a correction may raise what a
plan keeps free as far as its bound, but lowers it never below the formulas' own expectation nor below the highest credible measurement: what the
longest history of wrong measurements can do is to make plans cautious, or to take the margin above the expectation.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import ceil, exp, isfinite, log
from statistics import median
from typing import Final, NamedTuple, TypeGuard

from finetune_operator.api.compatibility import Checkpointing, Offload, Strategy
from finetune_operator.api.history import History, KindRecord, MeasuredRun, Prediction, RunKind
from finetune_operator.api.methods import Optimizer
from finetune_operator.api.spec import FineTuneJobSpec
from finetune_operator.memory.architecture import Architecture
from finetune_operator.memory.kinds import Quantization, Tuning
from finetune_operator.memory.own_workload import quantization_of, tuning_of

ESTIMATOR_VERSION: Final = 1
"""Raise it when the formulas of memory or throughput change: ratios to the old ones are then left alone, and age out."""

RUNS_PER_KIND: Final = 8
"""The newest of a kind: enough for a median, and few enough that a change of libraries is forgotten soon."""
MOST_RUNS: Final = 400
"""Of all kinds together: at most 256 KiB of JSON even if every run is of another kind (a test measures it)."""

PRIOR_RUNS: Final = 2.0
"""How many runs of the very kind weigh as much as what is believed without them."""
PRIOR_KINDS: Final = 4.0
"""How many similar kinds weigh as much as the belief that the formulas are right."""


class Bounds(NamedTuple):
    """What a ratio or factor is believed within."""

    least: float
    most: float

    def hold(self, value: float) -> float:
        """Return the nearest value within."""
        return min(max(value, self.least), self.most)


MEMORY_FACTOR: Final = Bounds(0.9, 1.3)
THROUGHPUT_FACTOR: Final = Bounds(0.4, 2.0)
CREDIBLE_MEMORY: Final = Bounds(0.5, 2.0)
"""A ratio beyond is no error of the formulas but a wrong measurement, or one of another thing: it is not kept."""
CREDIBLE_THROUGHPUT: Final = Bounds(0.05, 5.0)


@dataclass(frozen=True)
class FinishedRun:
    """What a job that has trained to its end tells."""

    id: str
    finished_at: str
    """RFC 3339, UTC."""
    prediction: Prediction
    peak_bytes: int | None = None
    """Highest measured peak of a process."""
    tokens_per_second: float | None = None


@dataclass(frozen=True)
class Correction:
    """What history says of one quantity of a kind of jobs."""

    factor: float = 1.0
    """By which the formulas' value is multiplied."""
    highest: float = 1.0
    """The highest credible ratio that jobs of the very kind have measured; 1 where there is none."""
    runs: int = 0
    """Runs of the very kind."""


UNCORRECTED: Final = Correction()


def kind_of(
    spec: FineTuneJobSpec,
    architecture: Architecture,
    *,
    sequence_length: int,
    strategy: Strategy,
    checkpointing: Checkpointing,
    offload: Offload,
    processes: int,
    gpu_product: str | None,
) -> RunKind:
    """Return the kind of a job that is run in one way.

    Parameters are rounded to two significant digits and the length up to a power of two: what errs alike is one kind.
    """
    return RunKind(
        objective=spec.objective,
        model_type=architecture.model_type[:63],
        parameters=int(float(f"{architecture.parameters:.1e}")),
        method=spec.tuning.method,
        settings=_settings(spec),
        precision=spec.training.precision,
        strategy=strategy,
        checkpointing=checkpointing,
        offload=offload,
        accelerator=spec.resources.accelerator,
        gpu_product=gpu_product,
        processes=processes,
        length=1 << (sequence_length - 1).bit_length(),
        estimator=ESTIMATOR_VERSION,
    )


def _settings(spec: FineTuneJobSpec) -> str:
    found = (
        "dora" if tuning_of(spec) is Tuning.DORA else "",
        "single quantization" if quantization_of(spec) is Quantization.NF4 else "",
        "" if spec.training.optimizer is Optimizer.ADAMW else spec.training.optimizer.value,
        "reward model" if spec.training.online and spec.training.online.reward_models else "",
    )
    return ", ".join(word for word in found if word)


def record(history: History, run: FinishedRun) -> History:
    """Return the history with a finished run; the same history where it has the run already, is full of newer ones, or cannot believe it.

    The result depends only on the set of all runs told, not on their order, so that a job that is told again changes nothing.
    """
    measured = _measured(run)
    if measured is None:
        return history
    return merged(history, KindRecord(kind=run.prediction.kind, runs=(measured,)))


def merged(history: History, *additions: KindRecord) -> History:
    """Return the newest runs of the history and of further records, within the bounds of number."""
    found: dict[RunKind, dict[str, MeasuredRun]] = {}
    for entry in (*history.records, *additions):
        runs = found.setdefault(entry.kind, {})
        for run in entry.runs:
            runs.setdefault(run.id, run)
    newest = [(_age(run), kind, run) for kind, runs in found.items() for run in _newest(runs.values())]
    newest.sort(key=lambda item: item[0], reverse=True)
    kept: dict[RunKind, list[MeasuredRun]] = {}
    for _, kind, run in newest[:MOST_RUNS]:
        kept.setdefault(kind, []).append(run)
    records = (KindRecord(kind=kind, runs=tuple(sorted(runs, key=_age))) for kind, runs in kept.items())
    result = History(records=tuple(sorted(records, key=lambda entry: entry.kind.model_dump_json())))
    return history if result == history else result


class Corrections:
    """The corrections that a history means, worked out once and looked up for every candidate of a plan."""

    def __init__(self, history: History) -> None:
        self.is_empty: Final = not history.records
        self._memory: Final = _Table(history, "memory_ratio", CREDIBLE_MEMORY, MEMORY_FACTOR, by_product=False)
        self._throughput: Final = _Table(
            history, "throughput_ratio", CREDIBLE_THROUGHPUT, THROUGHPUT_FACTOR, by_product=True
        )

    def memory(self, kind: RunKind) -> Correction:
        """Return how the expected peak of a process is corrected; runs on every GPU type count, since only the CUDA context differs."""
        return self._memory.correction(kind)

    def throughput(self, kind: RunKind) -> Correction:
        """Return how the predicted tokens per second are corrected, from runs on this GPU type alone."""
        return self._throughput.correction(kind)


@lru_cache(maxsize=4)
def corrections_of(history: History) -> Corrections:
    """Return the corrections that a history means; working out 400 runs takes 3 ms, and every plan asks for the same."""
    return Corrections(history)


class Peak(NamedTuple):
    """The highest memory of one process."""

    expected_bytes: int
    upper_bytes: int


def corrected(peak: Peak, correction: Correction) -> Peak:
    """Return the formulas' peak as history corrects it.

    upper never sinks below the formulas' expected peak, nor below the highest credible measurement of the kind (up to the factor's bound).
    """
    if correction == UNCORRECTED:
        return peak
    expected = round(peak.expected_bytes * correction.factor)
    floor = peak.expected_bytes * max(1.0, MEMORY_FACTOR.hold(correction.highest))
    return Peak(expected, max(round(peak.upper_bytes * correction.factor), ceil(floor), expected))


Key = tuple[object, ...]


class _Table:
    """Corrections of one quantity, by kind; runs of similar kinds count a little where there are none of the very kind."""

    def __init__(self, history: History, ratio: str, credible: Bounds, factor: Bounds, *, by_product: bool) -> None:
        self._by_product = by_product
        exact: dict[Key, list[float]] = {}
        similar_of: dict[Key, Key] = {}
        for entry in history.records:
            ratios = [value for run in entry.runs if _is_credible(value := getattr(run, ratio), credible)]
            if ratios:
                exact.setdefault(self._exact(entry.kind), []).extend(ratios)
                similar_of[self._exact(entry.kind)] = self._similar(entry.kind)
        kinds: dict[Key, list[float]] = {}
        for key, ratios in exact.items():
            kinds.setdefault(similar_of[key], []).append(median(map(log, ratios)))
        beliefs = {key: _shrunk(logarithms, 0.0, PRIOR_KINDS) for key, logarithms in kinds.items()}
        self._similar_corrections: Final = {
            key: Correction(factor=factor.hold(exp(belief))) for key, belief in beliefs.items()
        }
        self._exact_corrections: Final = {
            key: Correction(
                factor=factor.hold(exp(_shrunk([log(r) for r in ratios], beliefs[similar_of[key]], PRIOR_RUNS))),
                highest=max(ratios),
                runs=len(ratios),
            )
            for key, ratios in exact.items()
        }

    def correction(self, kind: RunKind) -> Correction:
        found = self._exact_corrections.get(self._exact(kind))
        return found or self._similar_corrections.get(self._similar(kind), UNCORRECTED)

    def _exact(self, kind: RunKind) -> Key:
        same = (kind.model_type, kind.parameters, kind.processes, kind.length)
        return (*self._similar(kind), *same)

    def _similar(self, kind: RunKind) -> Key:
        how = (
            kind.objective,
            kind.method,
            kind.precision,
            kind.strategy,
            kind.checkpointing,
            kind.offload,
            kind.accelerator,
        )
        return (*how, kind.estimator, kind.gpu_product if self._by_product else None)


def _shrunk(logarithms: Sequence[float], prior: float, weight: float) -> float:
    """The median of measurements, drawn to what is believed without them: (n × median + weight × prior) / (n + weight)."""
    count = len(logarithms)
    return (count * median(logarithms) + weight * prior) / (count + weight)


def _measured(run: FinishedRun) -> MeasuredRun | None:
    """What a run is kept as; None where nothing of it can be believed."""
    predicted = run.prediction
    memory = run.peak_bytes / predicted.expected_bytes if run.peak_bytes is not None else None
    speed = None
    if run.tokens_per_second is not None and predicted.tokens_per_second is not None:
        speed = run.tokens_per_second / predicted.tokens_per_second
    memory = round(memory, 4) if memory is not None and _is_credible(memory, CREDIBLE_MEMORY) else None
    speed = round(speed, 4) if speed is not None and _is_credible(speed, CREDIBLE_THROUGHPUT) else None
    if memory is None and speed is None:
        return None
    return MeasuredRun(id=run.id, finished_at=run.finished_at, memory_ratio=memory, throughput_ratio=speed)


def _is_credible(ratio: float | None, bounds: Bounds) -> TypeGuard[float]:
    return ratio is not None and isfinite(ratio) and bounds.least <= ratio <= bounds.most


def _newest(runs: Iterable[MeasuredRun]) -> list[MeasuredRun]:
    return sorted(runs, key=_age)[-RUNS_PER_KIND:]


def _age(run: MeasuredRun) -> tuple[str, str]:
    return run.finished_at, run.id
