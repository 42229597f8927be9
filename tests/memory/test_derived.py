"""What is kept with a model is what would be computed again: functions read nothing of a workload that they say they leave out."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from finetune_operator.api.compatibility import Checkpointing, Offload, Strategy
from finetune_operator.memory.architecture import Architecture, architecture_of
from finetune_operator.memory.derived import SPLIT
from finetune_operator.memory.estimate import beside_passes, estimate, footprint
from finetune_operator.memory.kinds import (
    BF16_FLOAT32_MOMENTS,
    FLOAT32,
    FLOAT32_MASTER,
    PURE_BF16,
    AttentionKernel,
    Goal,
    LossKind,
    Optimizer,
    Quantization,
    Teacher,
    Tuning,
)
from finetune_operator.memory.software import OWN_SOFTWARE, Software
from finetune_operator.memory.workload import Workload
from finetune_operator.planner.known_models import KNOWN_MODELS
from finetune_operator.planner.roofline.work import work_of

MODELS = ("HuggingFaceTB/SmolLM2-135M", "openai-community/gpt2", "google/gemma-2-2b", "mistralai/Mixtral-8x7B-v0.1")

VALUES: dict[str, st.SearchStrategy[Any]] = {
    "micro_batch": st.integers(1, 4),
    "sequence_length": st.sampled_from((1, 128, 1000, 8192)),
    "accumulation": st.integers(1, 3),
    "processes": st.sampled_from((1, 2, 8, 48)),
    "strategy": st.sampled_from(list(Strategy)),
    "checkpointing": st.sampled_from(list(Checkpointing)),
    "syncs_every_batch": st.booleans(),
    "loads_whole": st.booleans(),
    "efficient_loading": st.booleans(),
}
splits = st.fixed_dictionaries(VALUES)
changes = st.sampled_from(sorted(VALUES)).flatmap(lambda field: VALUES[field].map(lambda value: {field: value}))
workloads = st.builds(
    Workload,
    tuning=st.sampled_from(list(Tuning)),
    numerics=st.sampled_from((PURE_BF16, FLOAT32_MASTER, BF16_FLOAT32_MOMENTS, FLOAT32)),
    micro_batch=st.just(1),
    sequence_length=st.just(128),
    dropout=st.sampled_from((0.0, 0.1)),
    loss=st.sampled_from(list(LossKind)),
    accelerator=st.sampled_from(("gpu", "cpu")),
    quantization=st.sampled_from(list(Quantization)),
    optimizer=st.sampled_from(list(Optimizer)),
    attention=st.sampled_from(list(AttentionKernel)),
    packing=st.booleans(),
    teacher=st.sampled_from((None, Teacher(10**9, 2048, 20_000))),
    separates_rows=st.booleans(),
    goal=st.sampled_from(list(Goal)),
    offload=st.sampled_from(list(Offload)),
    reshards=st.booleans(),
    flat_parameters=st.booleans(),
    splits_root=st.booleans(),
    tensor_parallel=st.sampled_from((1, 2)),
    context_parallel=st.sampled_from((1, 2)),
    trained_layers=st.integers(0, 4),
    trained_fraction=st.sampled_from((0.25, 1.0)),
    trained_embeddings=st.booleans(),
    trained_parameters=st.integers(1, 10**6),
    software=st.sampled_from(
        (OWN_SOFTWARE, Software(float32_norms=True, holds_logits=True, reentrant_checkpoints=True))
    ),
    evaluation_batch=st.sampled_from((0, 8)),
)


def known(name: str) -> Architecture:
    architecture = architecture_of(KNOWN_MODELS[name])
    assert isinstance(architecture, Architecture)
    return architecture


def test_every_field_that_may_be_left_out_is_drawn() -> None:
    assert VALUES.keys() == set(SPLIT)


@given(st.sampled_from(MODELS), workloads, splits, st.lists(changes, min_size=4, max_size=12))
def test_a_model_that_was_asked_before_answers_as_if_it_had_not_been(
    name: str, workload: Workload, first: dict[str, Any], then: list[dict[str, Any]]
) -> None:
    asked_before = known(name)
    for change in (first, *then):
        workload, never_asked = replace(workload, **change), replace(asked_before)
        assert footprint(asked_before, workload) == footprint(never_asked, workload)
        assert work_of(asked_before, workload) == work_of(never_asked, workload)


@given(st.sampled_from(MODELS), workloads, splits)
def test_the_footprint_that_the_search_compares_is_the_estimate_that_a_plan_shows(
    name: str, workload: Workload, way: dict[str, Any]
) -> None:
    architecture, described = known(name), replace(workload, **way)
    plain, shown = footprint(architecture, described), estimate(architecture, described)
    assert (plain.expected_bytes, plain.upper_bytes) == (shown.expected_bytes, shown.upper_bytes)
    assert plain.expected_bytes == max(phase.total for phase in shown.phases)
    assert plain.peak.reserved == shown.reserved.expected_bytes
    assert {phase.phase: phase.reserved for phase in plain.phases}.keys() == {phase.phase for phase in shown.phases}


@given(st.sampled_from(MODELS), workloads, splits, splits)
def test_what_a_process_holds_beside_its_passes_is_the_same_for_every_batch_and_never_more_than_its_footprint(
    name: str, workload: Workload, way: dict[str, Any], other: dict[str, Any]
) -> None:
    """The search gives up a way for all its batches by this."""
    architecture, described = known(name), replace(workload, **way)
    batch = {field: other[field] for field in ("micro_batch", "accumulation", "checkpointing")}
    least, whole = beside_passes(architecture, described), footprint(architecture, replace(described, **batch))
    assert least.expected_bytes <= whole.expected_bytes
    assert least.upper_bytes <= whole.upper_bytes
