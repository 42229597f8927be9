"""What history does to plans: it learns slowly, within bounds, and no measurement makes a plan unsafe."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune_operator.api.compatibility import Checkpointing, Strategy
from finetune_operator.api.history import EMPTY_HISTORY, History, KindRecord, MeasuredRun, Prediction, RunKind
from finetune_operator.api.methods import Method
from finetune_operator.api.plan import GIB, Plan
from finetune_operator.api.spec import FineTuneJobSpec
from finetune_operator.planner.catalogue import catalogue_inventory
from finetune_operator.planner.history import (
    CREDIBLE_MEMORY,
    MEMORY_FACTOR,
    MOST_RUNS,
    RUNS_PER_KIND,
    THROUGHPUT_FACTOR,
    UNCORRECTED,
    Corrections,
    FinishedRun,
    Peak,
    corrected,
    corrections_of,
    merged,
    record,
)
from finetune_operator.planner.inventory import Inventory
from finetune_operator.planner.known_models import KNOWN_MODELS
from finetune_operator.planner.plan import make_plan

LLAMA_8B = "meta-llama/Meta-Llama-3-8B"
H100, A100 = "NVIDIA-H100-80GB-HBM3", "NVIDIA-A100-SXM4-80GB"


def kind(**changes: Any) -> RunKind:
    values: dict[str, Any] = {
        "model_type": "llama",
        "parameters": 8_000_000_000,
        "method": Method.LORA,
        "precision": "bf16",
        "strategy": Strategy.SINGLE,
        "checkpointing": Checkpointing.NONE,
        "accelerator": "gpu",
        "gpu_product": H100,
        "processes": 1,
        "length": 2048,
    }
    return RunKind(**{**values, **changes})


def finished(
    number: int, ratio: float | None = None, speed: float | None = None, of: RunKind | None = None
) -> FinishedRun:
    """Return job `number`, which took `ratio` times the predicted memory and ran at `speed` times the predicted tokens per second."""
    return FinishedRun(
        id=f"job-{number}",
        finished_at=f"2026-11-21T{number // 3600:02}:{number // 60 % 60:02}:{number % 60:02}Z",
        prediction=Prediction(kind=of or kind(), expected_bytes=20 * GIB, tokens_per_second=1000.0),
        peak_bytes=None if ratio is None else round(ratio * 20 * GIB),
        tokens_per_second=None if speed is None else speed * 1000.0,
    )


def told(*runs: FinishedRun) -> History:
    history = EMPTY_HISTORY
    for run in runs:
        history = record(history, run)
    return history


def plan_of(history: History, inventory: Inventory | None = None, **resources: Any) -> Plan:
    spec = FineTuneJobSpec.model_validate(
        {
            "model": {"uri": f"hf://{LLAMA_8B}"},
            "dataset": {"uri": "s3://data/rows.jsonl"},
            "output": {"uri": "s3://models/tuned"},
            "resources": {"gpus": 1, "gpuProduct": [H100], **resources},
        }
    )
    plan = make_plan(spec, None, inventory or catalogue_inventory(), config=KNOWN_MODELS[LLAMA_8B], history=history)
    assert isinstance(plan, Plan), plan
    return plan


PINNED = {"microBatchSize": 1, "gradientCheckpointing": "none"}
UNTAUGHT = plan_of(EMPTY_HISTORY, **PINNED)
"""The plan by the formulas alone, with one way to run left, so that a lesson cannot make the planner choose another."""


def prediction_of(plan: Plan) -> Prediction:
    assert plan.prediction is not None
    return plan.prediction


ratios = st.floats() | st.floats(0.3, 3.0)
kinds = st.sampled_from(
    [
        kind(processes=processes, gpu_product=product, method=method)
        for processes in (1, 2, 8)
        for product in (H100, A100)
        for method in (Method.LORA, Method.FULL)
    ]
)
runs = st.builds(
    MeasuredRun,
    id=st.integers(0, 10**6).map(str),
    finished_at=st.integers(0, 10**6).map(lambda number: f"2026-{number:07}"),
    memory_ratio=st.none() | ratios,
    throughput_ratio=st.none() | ratios,
)
histories = st.lists(st.builds(KindRecord, kind=kinds, runs=st.lists(runs, max_size=6).map(tuple)), max_size=6).map(
    lambda records: History(records=tuple(records))
)


@given(histories, kinds, st.integers(1, 10**12), st.floats(1.0, 1.5))
def test_no_history_of_wrong_measurements_makes_a_plan_unsafe(
    history: History, wanted: RunKind, expected: int, margin: float
) -> None:
    formula = Peak(expected, round(expected * margin))
    correction = corrections_of(history).memory(wanted)

    memory = corrected(formula, correction)

    assert MEMORY_FACTOR.least <= correction.factor <= MEMORY_FACTOR.most
    assert memory.upper_bytes >= formula.expected_bytes
    assert memory.upper_bytes >= memory.expected_bytes
    assert memory.upper_bytes >= min(correction.highest, MEMORY_FACTOR.most) * formula.expected_bytes
    assert memory.upper_bytes <= max(MEMORY_FACTOR.most * formula.upper_bytes, formula.upper_bytes) + 1
    assert THROUGHPUT_FACTOR.least <= corrections_of(history).throughput(wanted).factor <= THROUGHPUT_FACTOR.most


@given(histories, kinds, st.integers(1, 10**12), st.floats(1.0, 1.5), st.integers(0, 10**12))
def test_no_history_makes_the_larger_of_two_peaks_the_smaller_one(
    history: History, wanted: RunKind, expected: int, margin: float, more: int
) -> None:
    """The search compares what processes hold at least before it looks at the rest."""
    correction = corrections_of(history).memory(wanted)
    smaller = corrected(Peak(expected, round(expected * margin)), correction)
    larger = corrected(Peak(expected + more, round((expected + more) * margin)), correction)
    assert smaller.expected_bytes <= larger.expected_bytes
    assert smaller.upper_bytes <= larger.upper_bytes


@given(st.lists(st.tuples(st.integers(0, 60), ratios, kinds), max_size=40), st.randoms(use_true_random=False))
def test_the_order_in_which_jobs_are_told_does_not_matter_and_telling_them_again_changes_nothing(
    told_runs: list[tuple[int, float, RunKind]], random: Random
) -> None:
    unique = {number: finished(number, speed=ratio, of=of) for number, ratio, of in told_runs}
    one = list(unique.values())
    other = list(one)
    random.shuffle(other)

    history = told(*one)

    assert told(*other) == history
    assert told(*one, *other) == history
    assert all(record(history, run) is history for run in one)


def test_a_history_never_grows_beyond_256_kib() -> None:
    product, family = "x" * 63, "y" * 63
    records = [
        KindRecord(
            kind=kind(gpu_product=product, model_type=family, parameters=10**15, processes=4096 + number, length=2**30,
                      method=Method.QLORA, strategy=Strategy.SINGLE, estimator=10**6),
            runs=(MeasuredRun(id="z" * 32, finished_at="2026-11-21T10:00:00.123456Z", memory_ratio=1.2345, throughput_ratio=1.2345),),
        )
        for number in range(3 * MOST_RUNS)
    ]  # fmt: skip

    history = merged(EMPTY_HISTORY, *records)

    assert history.runs == MOST_RUNS
    assert len(history.model_dump_json(by_alias=True, exclude_none=True).encode()) <= 256 * 1024


def test_of_each_kind_the_newest_runs_are_kept() -> None:
    history = told(*(finished(number, 1.1) for number in range(20)), finished(30, 1.1, of=kind(processes=2)))
    sizes = {entry.kind.processes: [run.id for run in entry.runs] for entry in history.records}
    assert sizes == {1: [f"job-{number}" for number in range(20 - RUNS_PER_KIND, 20)], 2: ["job-30"]}


def test_an_old_job_that_is_told_again_after_it_was_dropped_changes_nothing() -> None:
    history = told(*(finished(number, 1.1) for number in range(RUNS_PER_KIND + 4)))
    assert record(history, finished(0, 1.1)) is history


@pytest.mark.parametrize("ratio", [0.0, 0.1, CREDIBLE_MEMORY.most + 0.1, 1000.0])
def test_a_measurement_that_cannot_be_true_is_not_kept(ratio: float) -> None:
    assert record(EMPTY_HISTORY, finished(1, ratio)) is EMPTY_HISTORY


def test_without_runs_the_formulas_stand() -> None:
    assert corrections_of(EMPTY_HISTORY).memory(kind()) == UNCORRECTED
    assert corrections_of(told(finished(1, 1.2))).memory(kind(method=Method.FULL)) == UNCORRECTED
    assert plan_of(told(finished(1, 1.2, of=kind(method=Method.FULL))), **PINNED) == UNTAUGHT


def test_one_run_moves_little_and_eight_move_most_of_the_way() -> None:
    one = corrections_of(told(finished(1, 1.2))).memory(kind())
    eight = corrections_of(told(*(finished(number, 1.2) for number in range(8)))).memory(kind())
    assert 1.03 < one.factor < 1.12
    assert 1.14 < eight.factor < 1.2
    assert (one.runs, eight.runs) == (1, 8)


def test_one_wrong_run_among_several_moves_the_correction_hardly() -> None:
    honest = [finished(number, 1.1) for number in range(5)]
    right = corrections_of(told(*honest)).memory(kind())
    wrong = corrections_of(told(*honest, finished(9, 0.55))).memory(kind())
    assert wrong.factor == pytest.approx(right.factor, abs=0.03)


def test_runs_of_similar_kinds_move_a_kind_that_nobody_has_run_yet_a_little() -> None:
    history = told(*(finished(number, 1.2, of=kind(parameters=10**9 * (number + 1))) for number in range(4)))
    correction = corrections_of(history).memory(kind(parameters=70 * 10**9))
    assert 1.0 < correction.factor < 1.15
    assert correction.runs == 0


def test_memory_is_learned_from_every_gpu_type_and_speed_from_the_same_type_only() -> None:
    history = told(*(finished(number, 1.2, 0.5, of=kind(gpu_product=A100)) for number in range(4)))
    assert corrections_of(history).memory(kind(gpu_product=H100)).runs == 4
    assert corrections_of(history).throughput(kind(gpu_product=H100)) == UNCORRECTED
    assert corrections_of(history).throughput(kind(gpu_product=A100)).factor < 0.75


def test_the_highest_measurement_of_a_kind_stays_below_upper() -> None:
    history = told(*(finished(number, 0.95) for number in range(5)), finished(9, 1.25))
    formula = Peak(20 * GIB, round(20 * GIB * 1.1))
    memory = corrected(formula, corrections_of(history).memory(kind()))
    assert memory.expected_bytes < formula.expected_bytes
    assert memory.upper_bytes >= 1.25 * formula.expected_bytes


@pytest.mark.parametrize("seed", range(4))
def test_the_error_of_predictions_shrinks_over_finished_jobs(seed: int) -> None:
    """The same kind of job again and again, whose true peak and speed differ from the formulas' by a factor that only the simulation knows."""
    random = Random(seed)
    memory_truth, speed_truth = random.uniform(1.1, 1.25), random.uniform(0.55, 0.8)
    history, memory_errors, speed_errors = EMPTY_HISTORY, [], []
    for number in range(8):
        plan = plan_of(history, **PINNED)
        prediction = prediction_of(plan)
        peak = prediction.expected_bytes * memory_truth * random.uniform(0.99, 1.01)
        speed = (prediction.tokens_per_second or 0.0) * speed_truth * random.uniform(0.97, 1.03)
        expected_speed = (prediction.tokens_per_second or 0.0) * Corrections(history).throughput(prediction.kind).factor
        memory_errors.append(abs(peak / plan.memory.expected_bytes - 1))
        speed_errors.append(abs(speed / expected_speed - 1))
        run = FinishedRun(f"job-{number}", f"2026-11-21T10:00:{number:02}Z", prediction, round(peak), speed)
        history = record(history, run)

    assert memory_errors[-1] < 0.4 * memory_errors[0]
    assert speed_errors[-1] < 0.5 * speed_errors[0]
    assert sum(memory_errors[4:]) < sum(memory_errors[:4])


def test_what_is_kept_is_compared_with_the_formulas_and_not_with_what_history_made_of_them() -> None:
    before = prediction_of(UNTAUGHT)
    after = plan_of(told(*(finished(number, 1.2, 0.5, of=before.kind) for number in range(8))), **PINNED)
    assert after.prediction == before
    assert after.memory.expected_bytes > before.expected_bytes


def test_a_plan_says_what_history_changed() -> None:
    history = told(*(finished(number, 1.2, 0.5, of=prediction_of(UNTAUGHT).kind) for number in range(3)))
    said = " ".join(plan_of(history, **PINNED).reasons)
    assert "history: expected memory × 1." in said
    assert "learned from 3 finished jobs of this kind" in said
    assert "history: expected tokens/s × 0." in said


def test_a_plan_that_history_makes_too_large_is_replaced_by_one_that_fits() -> None:
    capacity = round(UNTAUGHT.memory.upper_bytes * 1.05)
    nodes = catalogue_inventory((H100,)).gpu_nodes[0].model_copy(update={"memory_bytes": capacity})
    history = told(*(finished(number, 1.3, of=prediction_of(UNTAUGHT).kind) for number in range(8)))

    free, careful = (
        plan_of(known, Inventory(gpu_nodes=(nodes,)), microBatchSize=1) for known in (EMPTY_HISTORY, history)
    )

    assert (free.gradient_checkpointing, careful.gradient_checkpointing) == (Checkpointing.NONE, Checkpointing.FULL)


@settings(max_examples=20)
@given(histories)
def test_plans_are_deterministic_whatever_the_history_holds(history: History) -> None:
    again = History.model_validate_json(history.model_dump_json())
    assert plan_of(history) == plan_of(again)
