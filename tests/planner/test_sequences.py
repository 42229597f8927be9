"""Packing in a plan: when it is worth it, what it makes of steps and lengths, and when it is refused."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from finetune_operator.api.inspection import InspectionReport, TokenHistogram
from finetune_operator.api.packing import packed_rows
from finetune_operator.api.plan import Plan, PlanError
from finetune_operator.planner.inventory import Inventory
from finetune_operator.planner.plan import make_plan
from finetune_operator.planner.sequences import SequencesOfEpoch, sequences_of
from finetune_operator.planner.testing import LLAMA_8B, good, gpu_nodes, inspected, spec_of

SHORT = {100: 9000, 200: 6000, 1900: 3000}
"""Rows of very different lengths: nine in ten tokens of their batches are padding."""


def report_on(lengths: dict[int, int], *, counted: bool = True, cut: int = 2048) -> InspectionReport:
    """A report on rows of these lengths; an older version has not counted sequences."""
    edges = tuple(sorted({edge for length in lengths for edge in (length, length + 1)}))
    counts = tuple(lengths.get(edge, 0) for edge in edges[:-1])
    tokens = TokenHistogram(
        edges=edges,
        counts=counts,
        minimum=min(lengths),
        maximum=max(lengths),
        mean=0.0,
        median=0,
        percentile_99=max(lengths),
        total=sum(length * count for length, count in lengths.items()),
    )
    report = inspected(rows=sum(lengths.values()))
    packed = packed_rows(lengths, cut) if counted else None
    data = report.dataset.model_copy(update={"tokens": tokens, "packed": packed})
    return report.model_copy(update={"dataset": data})


def planned(report: InspectionReport | None, **training: Any) -> Plan:
    return good(make_plan(spec_of(training=training), report, Inventory(gpu_nodes=(gpu_nodes(),)), config={}))


def test_raw_text_is_packed_wherever_that_is_safe() -> None:
    """Its pieces are nearly all full, so that `auto` would save too little of other rows."""
    full = report_on({2048: 900, 1500: 30})
    for model_type, packed in (("llama", True), ("bloom", False)):
        made = sequences_of(spec_of(objective="pretrain"), model_type, full, 0, cut=2048)
        assert isinstance(made, SequencesOfEpoch)
        assert made.packed is packed
    alone = sequences_of(spec_of(objective="pretrain", training={"packing": "none"}), "llama", full, 0, cut=2048)
    assert isinstance(alone, SequencesOfEpoch)
    assert not alone.packed


def test_short_rows_are_packed_and_steps_count_sequences() -> None:
    plan = planned(report_on(SHORT))
    alone = planned(report_on(SHORT), packing="none")

    sequences = packed_rows(SHORT, 2048).sequences
    assert (plan.packed, plan.rows, plan.sequences) == (True, 18_000, sequences)
    assert plan.total_steps == -(-3 * sequences // 64)
    assert (alone.packed, alone.sequences, alone.total_steps) == (False, 18_000, -(-3 * 18_000 // 64))
    assert any(reason.startswith("packing: 18,000 rows in") for reason in plan.reasons)
    assert plan.memory_key != alone.memory_key
    assert plan.throughput is not None
    assert alone.throughput is not None
    assert (plan.throughput.total_seconds or 0) < (alone.throughput.total_seconds or 0)


@pytest.mark.parametrize(
    ("lengths", "training", "why"),
    [
        ({2000: 50_000}, {}, "it would save 0% of the tokens"),
        ({100: 90, 200: 60, 1900: 30}, {}, "it would leave 2 steps of 64 sequences, fewer than 100"),
        (SHORT, {"maxSteps": 500}, "training.maxSteps fixes the number of steps"),
    ],
)
def test_auto_says_why_it_does_not_pack(lengths: dict[int, int], training: dict[str, Any], why: str) -> None:
    plan = planned(report_on(lengths), **training)
    assert not plan.packed
    assert any(reason.startswith(f"packing: off, {why}") for reason in plan.reasons)


def test_whoever_asks_for_packing_gets_it_however_few_steps_are_left() -> None:
    plan = planned(report_on({100: 90, 1900: 30}), packing="best-fit")
    assert plan.packed
    assert plan.steps_per_epoch == 1


def test_a_report_without_a_count_of_sequences_is_packed_by_its_histogram() -> None:
    assert planned(report_on(SHORT, counted=False)) == planned(report_on(SHORT))


def test_the_number_of_sequences_is_open_without_an_inspection() -> None:
    plan = good(
        make_plan(
            spec_of(training={"packing": "best-fit"}),
            None,
            Inventory(gpu_nodes=(gpu_nodes(),)),
            config=inspected(LLAMA_8B).model.config,
            rows=1000,
        )
    )
    assert plan.packed
    assert plan.total_steps == 0
    assert any("known after the inspection" in assumption for assumption in plan.assumptions)


def test_models_whose_packed_rows_see_each_other_are_refused_or_not_packed() -> None:
    report = report_on(SHORT)
    refused = sequences_of(spec_of(training={"packing": "best-fit"}), "bloom", report, 0, cut=2048)
    assert isinstance(refused, PlanError)
    assert "see each other" in refused.message
    for model_type in ("bloom", "never_heard_of"):
        made = sequences_of(spec_of(), model_type, report, 0, cut=2048)
        assert not getattr(made, "packed", True)
        assert "not known to keep packed rows apart" in str(made)


def test_a_packed_sequence_needs_the_memory_of_its_mask() -> None:
    training = {"maxLength": 2048, "globalBatchSize": 1}
    settings = {"resources": {"gpus": 1, "gradientCheckpointing": "none"}}
    nodes = Inventory(gpu_nodes=(gpu_nodes(),))
    packed, alone = (
        good(make_plan(spec_of(training={**training, "packing": how}, **settings), report, nodes, config={}))
        for how, report in (("best-fit", report_on(Counter(SHORT))), ("none", report_on({2048: 100})))
    )
    assert packed.memory.expected_bytes > alone.memory.expected_bytes
