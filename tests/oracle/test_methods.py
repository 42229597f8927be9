"""Ways to train beside plain full training and LoRA: the closed form within 2 % of the trace (bench/traced/methods.py has more of them)."""

from __future__ import annotations

import logging
import warnings

import pytest
from traced.comparison import Comparison, compare, traced_case
from traced.methods import method_cases

TRACED = (
    "dpo-full on llama",
    "dpo-lora-padded-recomputed on llama",
    "reward-full on qwen3-tied",
    "dora-autocast-recomputed on llama",
    "dora-dropout on qwen3-tied",
    "prompt-bf16 on qwen3-tied",
    "adafactor-full-bf16 on llama",
    "qlora-float32-rest on llama",
)


def test_every_way_is_named_once() -> None:
    names = [case.name for case in method_cases()]
    assert len(set(names)) == len(names)
    assert set(TRACED) <= set(names)


@pytest.mark.parametrize("name", TRACED)
def test_the_closed_form_of_other_ways_to_train_is_within_2_percent_of_the_trace(name: str) -> None:
    case = next(case for case in method_cases() if case.name == name)
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = compare(case, traced_case(case))
    finally:
        logging.disable(logging.NOTSET)
    assert isinstance(found, Comparison)
    assert abs(found.error) <= 0.02
