"""The closed form against the oracle, on configurations generated from a seed: which agree within 2 %, and which do not yet."""

from __future__ import annotations

import logging
import statistics
import warnings

import pytest
from traced.cases import draw_cases
from traced.comparison import Comparison, compare, traced_case

SEED, PER_FAMILY = 4, 7

WITHIN_2_PERCENT = frozenset(
    [
        "deepseek_v2-0",
        "deepseek_v2-1",
        "deepseek_v2-2",
        "deepseek_v3-0",
        "deepseek_v3-1",
        "deepseek_v3-2",
        "distilbert-0",
        "gemma-0",
        "gemma-1",
        "gemma-2",
        "gemma2-0",
        "gemma3_text-0",
        "gemma3_text-1",
        "gemma3_text-2",
        "glm-0",
        "glm-1",
        "glm-2",
        "glm4-0",
        "glm4-1",
        "gpt2-0",
        "gpt_neox-1",
        "gpt_neox-2",
        "granite-1",
        "granite-2",
        "llama-0",
        "llama-1",
        "llama-2",
        "mistral-0",
        "mistral-1",
        "mistral-2",
        "mixtral-0",
        "mixtral-1",
        "mixtral-2",
        "olmo-0",
        "olmo-1",
        "olmo2-1",
        "olmo2-2",
        "olmo3-0",
        "olmo3-1",
        "olmo3-2",
        "phi-1",
        "phi-2",
        "phi3-0",
        "phi3-1",
        "phi3-2",
        "qwen2-0",
        "qwen2-1",
        "qwen2-2",
        "qwen2_moe-0",
        "qwen2_moe-1",
        "qwen2_moe-2",
        "qwen3-0",
        "qwen3-1",
        "qwen3-2",
        "qwen3_moe-0",
        "qwen3_moe-1",
        "qwen3_moe-2",
        "roberta-0",
        "smollm3-0",
        "smollm3-1",
        "smollm3-2",
        "stablelm-0",
        "stablelm-1",
        "stablelm-2",
        "starcoder2-0",
        "starcoder2-2",
    ]
)
"""Names of `python bench/memory_oracle.py --table`, which runs all cases. Measured on 21 November 2026 on a first part of them."""

OUTSIDE = {
    "bert-0": 0.5200,
    "bert-1": 0.1228,
    "cohere-0": -0.0218,
    "cohere-1": -0.0626,
    "cohere-2": -0.0333,
    "distilbert-1": -0.0202,
    "falcon-0": -0.0387,
    "falcon-1": -0.0358,
    "falcon-2": -0.0211,
    "gemma2-1": -0.1231,
    "gemma2-2": -0.2548,
    "glm4-2": -0.0952,
    "gpt2-1": -0.1268,
    "gpt2-2": -0.1468,
    "gpt_neox-0": -0.0228,
    "granite-0": 0.0245,
    "modernbert-1": -0.0290,
    "modernbert-2": -0.2794,
    "olmo-2": -0.0253,
    "olmo2-0": -0.0690,
    "phi-0": -0.1517,
    "roberta-1": -0.0806,
    "roberta-2": 0.8552,
    "starcoder2-1": -0.0463,
    "xlm-roberta-0": -0.0369,
    "xlm-roberta-1": -0.0205,
}
"""Signed errors of that run; the families and paths to work on. A case that comes within the bound moves up."""


@pytest.mark.timeout(900)
def test_the_closed_form_is_within_2_percent_of_the_trace_where_it_has_been_brought_so_far() -> None:
    cases = [case for case in draw_cases(SEED, PER_FAMILY) if case.name in WITHIN_2_PERCENT]
    assert len(cases) == len(WITHIN_2_PERCENT)
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = [compare(case, traced_case(case)) for case in cases]
    finally:
        logging.disable(logging.NOTSET)
    compared = [each for each in found if isinstance(each, Comparison)]
    assert len(compared) == len(cases)
    assert {each.name: round(each.error, 4) for each in compared if abs(each.error) > 0.02} == {}
    assert statistics.median(abs(each.error) for each in compared) <= 0.005


def test_cases_are_drawn_alike_each_time_and_no_case_stands_in_both_lists() -> None:
    cases = draw_cases(SEED, PER_FAMILY)
    assert cases == draw_cases(SEED, PER_FAMILY)
    assert len(cases) >= 200
    assert not WITHIN_2_PERCENT & set(OUTSIDE)
    assert WITHIN_2_PERCENT | set(OUTSIDE) <= {case.name for case in cases}
