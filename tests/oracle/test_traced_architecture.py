"""An architecture by trace: of a model that a table knows it is the same, and its estimates are those of the closed form."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import pytest

from finetune_operator.api.architecture_trace import ArchitectureTrace
from finetune_operator.api.compatibility import Checkpointing
from finetune_operator.memory.architecture import Architecture, architecture_of
from finetune_operator.memory.estimate import estimate
from finetune_operator.memory.kinds import FLOAT32_MASTER, PURE_BF16, Numerics, Tuning
from finetune_operator.memory.traced import traced_architecture
from finetune_operator.memory.workload import Workload
from finetune_trainer.oracle.architecture import trace_architecture

WIDTHS: dict[str, Any] = {
    "hidden_size": 512,
    "intermediate_size": 1536,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "vocab_size": 8192,
    "max_position_embeddings": 4096,
}
QWEN3 = {"model_type": "qwen3", **WIDTHS, "num_key_value_heads": 2, "head_dim": 64, "tie_word_embeddings": True}
pytestmark = pytest.mark.timeout(400)  # one trace is 5 s of a free core
FULL, LORA, NONE = Tuning.FULL, Tuning.LORA, Checkpointing.NONE


@pytest.fixture(scope="module")
def trace(quietly: Callable[[], AbstractContextManager[None]]) -> ArchitectureTrace:
    with quietly():
        return trace_architecture(QWEN3)


def both(trace: ArchitectureTrace) -> tuple[Architecture, Architecture]:
    """Return the architecture by the table and by the trace."""
    known = architecture_of(QWEN3)
    assert isinstance(known, Architecture)
    return known, traced_architecture(QWEN3, trace)


def allocated(architecture: Architecture, workload: Workload) -> int:
    return estimate(architecture, workload).allocated.expected_bytes


def test_traced_parameters_are_exactly_those_of_the_table(trace: ArchitectureTrace) -> None:
    known, traced = both(trace)
    for figure in ("parameters", "linear_parameters", "quantisable_parameters", "layer_parameters", "largest_tensor"):
        assert getattr(traced, figure) == getattr(known, figure), figure
    assert (traced.layers, traced.tied_embeddings) == (known.layers, known.tied_embeddings)
    assert sorted(traced.linear_names()) == sorted(known.linear_names())


@pytest.mark.parametrize("tuning", [FULL, LORA])
@pytest.mark.parametrize("numerics", [PURE_BF16, FLOAT32_MASTER], ids=["bf16", "autocast"])
def test_an_estimate_by_trace_is_within_1_percent_of_the_closed_form(
    numerics: Numerics, tuning: Tuning, trace: ArchitectureTrace
) -> None:
    known, traced = both(trace)
    for length in (512, 2048):
        for checkpointing in (NONE, Checkpointing.FULL):
            workload = Workload(tuning, numerics, 4, length, checkpointing=checkpointing, packing=True)
            expected = pytest.approx(allocated(known, workload), rel=0.01)
            assert allocated(traced, workload) == expected, workload


def test_what_is_traced_has_a_wider_upper_bound(trace: ArchitectureTrace) -> None:
    known, traced = both(trace)
    workload = Workload(LORA, FLOAT32_MASTER, 1, 2048)
    ratios = [
        found.allocated.upper_bytes / found.allocated.expected_bytes
        for found in (estimate(known, workload), estimate(traced, workload))
    ]
    assert ratios[1] - ratios[0] == pytest.approx(0.10, abs=1e-6)


def test_a_trace_survives_its_way_through_a_report(trace: ArchitectureTrace) -> None:
    text = trace.model_dump_json(by_alias=True, exclude_none=True)
    assert ArchitectureTrace.model_validate_json(text) == trace
    assert len(text) < 8192


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"model_type": "newest", "num_hidden_layers": 2}, "newest"),
        ({"model_type": "bart", "d_model": 64}, "number of layers"),
        ({"model_type": "xlm", **WIDTHS}, "_local_scalar_dense"),
    ],
)
def test_what_cannot_be_traced_raises(config: dict[str, Any], said: str) -> None:
    with pytest.raises(Exception, match=said):
        trace_architecture(config)
