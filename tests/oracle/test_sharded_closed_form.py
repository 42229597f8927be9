"""The closed form against the oracle for the trainer's own FSDP 2 jobs: units as accelerate makes them, float32 masters, the chunked head."""

from __future__ import annotations

import pytest
from traced.cases import Case
from traced.comparison import Comparison, compare, traced_case

from finetune_operator.api.compatibility import Checkpointing, Strategy
from finetune_operator.memory.kinds import FLOAT32_MASTER, Quantization, Tuning
from finetune_operator.memory.own_workload import as_trained_here
from finetune_operator.memory.workload import Workload
from finetune_operator.planner.known_models import KNOWN_MODELS
from finetune_trainer.oracle.extrapolation import with_depth

UNTIED, TIED = "meta-llama/Meta-Llama-3-8B", "Qwen/Qwen3-0.6B"
FULL, LORA = Tuning.FULL, Tuning.LORA
WHOLE, NF4 = Quantization.NONE, Quantization.NF4_DOUBLE
LAYERS = 4
"""Enough for FSDP 2 to fetch ahead; the whole depth costs two traces."""
NONE, EVERY = Checkpointing.NONE, Checkpointing.FULL


def compared(
    model: str, tuning: Tuning, quantization: Quantization, checkpointing: Checkpointing, processes: int
) -> Comparison:
    workload = as_trained_here(
        Workload(
            tuning=tuning,
            quantization=quantization,
            numerics=FLOAT32_MASTER,
            micro_batch=1,
            sequence_length=2048,
            strategy=Strategy.FSDP,
            processes=processes,
            checkpointing=checkpointing,
        )
    )
    case = Case(model, with_depth(KNOWN_MODELS[model], LAYERS), workload)
    found = compare(case, traced_case(case))
    assert isinstance(found, Comparison)
    return found


@pytest.mark.parametrize(
    ("model", "tuning", "quantization", "checkpointing", "processes"),
    [
        pytest.param(UNTIED, FULL, WHOLE, EVERY, 8, id="full, embedding apart"),
        pytest.param(UNTIED, LORA, WHOLE, NONE, 4, id="lora, no autocast"),
        pytest.param(UNTIED, LORA, NF4, EVERY, 8, id="qlora, embedding gathered for its backward pass"),
        pytest.param(TIED, FULL, WHOLE, EVERY, 2, id="full, tied: reduced in float32 at the end"),
        pytest.param(TIED, LORA, WHOLE, EVERY, 8, id="lora, tied: the embedding stays whole"),
    ],
)
def test_the_closed_form_of_a_sharded_job_is_within_two_percent_of_its_trace(
    model: str, tuning: Tuning, quantization: Quantization, checkpointing: Checkpointing, processes: int
) -> None:
    found = compared(model, tuning, quantization, checkpointing, processes)
    assert found.error == pytest.approx(0, abs=0.02), found
