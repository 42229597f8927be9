"""The closed form against the oracle on every configuration that the seed draws; a part of the traces is made anew, the rest is read."""

from __future__ import annotations

import logging
import statistics
import warnings
from pathlib import Path

import pytest
from traced.cases import Case, draw_cases
from traced.comparison import Comparison, compare, traced_case
from traced.configurations import FAMILIES
from traced.store import TraceStore

SEED, PER_FAMILY = 4, 7
TRACES = Path(__file__).with_name("traces.jsonl")
"""`python bench/memory_oracle.py --traces tests/oracle/traces.jsonl` adds what is missing; delete what a change of the oracle touches."""

BOUND = 0.02
RECOMPUTATION = "a checkpoint's second forward pass; cause not found yet"
FORWARD = "the end of the forward pass; cause not found yet"
OUTSIDE = {
    "falcon-5": FORWARD,
    "granite-3": RECOMPUTATION,
    "modernbert-0": RECOMPUTATION,
    "modernbert-2": RECOMPUTATION,
    "modernbert-6": RECOMPUTATION,
    "roberta-6": FORWARD,
    "xlm-roberta-3": FORWARD,
    "xlm-roberta-4": RECOMPUTATION,
}
"""Cases that are not within the bound (-3.2 to +4.1 %), and where they differ. One that comes within is taken out."""


def compared() -> list[Comparison]:
    store = TraceStore(TRACES)
    found = []
    for case in draw_cases(SEED, PER_FAMILY):
        traced = store.get(case)
        assert traced is not None, f"{case.name} has no trace in {TRACES.name}: run bench/memory_oracle.py --traces"
        comparison = compare(case, traced)
        assert isinstance(comparison, Comparison), comparison
        found.append(comparison)
    return found


def test_the_closed_form_is_within_2_percent_of_every_trace_but_the_named_ones_and_within_half_a_percent_in_the_median() -> (
    None
):
    found = compared()
    assert len(found) >= 200
    outside = {each.name: round(each.error, 4) for each in found if abs(each.error) > BOUND}
    assert outside.keys() == OUTSIDE.keys(), outside
    assert statistics.median(abs(each.error) for each in found) <= 0.005


def traced_anew() -> list[Case]:
    """One case of every second family, another number in each."""
    cases = {case.name: case for case in draw_cases(SEED, PER_FAMILY)}
    return [cases[f"{family}-{index % PER_FAMILY}"] for index, family in enumerate(FAMILIES) if index % 2 == 0]


@pytest.mark.timeout(300)
def test_a_trace_made_anew_is_the_one_that_is_kept() -> None:
    store = TraceStore(TRACES)
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for case in traced_anew():
                kept = store.get(case)
                assert kept is not None
                assert dict(traced_case(case).phases) == dict(kept.phases), case.name
    finally:
        logging.disable(logging.NOTSET)


def test_cases_are_drawn_alike_each_time() -> None:
    assert draw_cases(SEED, PER_FAMILY) == draw_cases(SEED, PER_FAMILY)
