"""Ways to train beside plain full training and LoRA: the closed form within 2 % of the trace (bench/traced/methods.py has more of them)."""

from __future__ import annotations

import logging
import warnings

import pytest
from traced.comparison import Comparison, compare, traced_case
from traced.methods import method_cases, mixture_cases

CASES = {case.name: case for case in (*method_cases(), *mixture_cases())}
TRACED = (
    "dpo-full on llama",
    "dpo-lora-padded-recomputed on llama",
    "reward-full on qwen3-tied",
    "dora-autocast-recomputed on llama",
    "dora-dropout on qwen3-tied",
    "prompt-bf16 on qwen3-tied",
    "adafactor-full-bf16 on llama",
    "qlora-float32-rest on llama",
    "full on olmoe",
    "lora on glm4-moe",
    "lora-recomputed on granitemoe",
)


def test_every_way_is_named_once() -> None:
    assert len(CASES) == len(method_cases()) + len(mixture_cases())
    assert set(TRACED) <= set(CASES)


@pytest.mark.parametrize("name", TRACED)
def test_the_closed_form_of_other_ways_to_train_is_within_2_percent_of_the_trace(name: str) -> None:
    case = CASES[name]
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = compare(case, traced_case(case))
    finally:
        logging.disable(logging.NOTSET)
    assert isinstance(found, Comparison)
    assert abs(found.error) <= 0.02
