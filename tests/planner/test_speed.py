"""What a plan says of time and money, and how prices choose between GPU types."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_operator.api.inspection import TokenHistogram
from finetune_operator.api.plan import Plan, Throughput
from finetune_operator.api.prices import NO_PRICES, Prices
from finetune_operator.api.spec import FineTuneJobSpec
from finetune_operator.planner.catalogue import catalogue_inventory, gpu_of
from finetune_operator.planner.known_models import KNOWN_MODELS
from finetune_operator.planner.lengths import usual_longest
from finetune_operator.planner.plan import make_plan
from finetune_operator.planner.price_list import PriceList

H100, L4, T4 = "NVIDIA-H100-80GB-HBM3", "NVIDIA-L4", "Tesla-T4"
MODEL = "meta-llama/Meta-Llama-3-8B"


def planned(prices: Prices = NO_PRICES, *, steps: int | None = 100, products: tuple[str, ...] = (H100, L4)) -> Plan:
    training: dict[str, Any] = {} if steps is None else {"maxSteps": steps}
    spec = FineTuneJobSpec.model_validate(
        {
            "model": {"uri": f"hf://{MODEL}"},
            "dataset": {"uri": "s3://data/rows.jsonl"},
            "output": {"uri": "s3://models/tuned"},
            "tuning": {"method": "qlora"},
            "training": training,
        }
    )
    plan = make_plan(spec, None, catalogue_inventory(products), config=KNOWN_MODELS[MODEL], prices=prices)
    assert isinstance(plan, Plan), plan
    return plan


def speed(plan: Plan) -> Throughput:
    assert plan.throughput is not None
    return plan.throughput


def histogram(*buckets: tuple[int, int]) -> TokenHistogram:
    """Rows of exactly the given lengths: (length, rows)."""
    edges = [edge for length, _ in buckets for edge in (length, length + 1)]
    counts = [count for _, rows in buckets for count in (rows, 0)][:-1]
    lengths = [length for length, _ in buckets]
    return TokenHistogram(
        edges=tuple(edges),
        counts=tuple(counts),
        minimum=lengths[0],
        maximum=lengths[-1],
        mean=0.0,
        median=0,
        percentile_99=lengths[-1],
        total=0,
    )


def test_the_dearer_type_is_taken_only_where_it_is_worth_its_price() -> None:
    level = {"currency": "EUR"}
    assert planned(Prices(**level, per_gpu_hour={H100: 2.0, L4: 2.0})).gpu_product == H100
    assert planned(Prices(**level, per_gpu_hour={H100: 50.0, L4: 0.1})).gpu_product == L4


def test_a_chosen_type_that_the_price_table_lacks_is_said_to_have_no_price() -> None:
    def told(prices: Prices) -> list[str]:
        return [reason for reason in planned(prices, products=(H100,)).reasons if reason.startswith("prices: ")]

    assert len(told(Prices(per_gpu_hour={L4: 0.7}))) == 1
    assert told(Prices(per_gpu_hour={H100: 3.0})) == told(NO_PRICES) == []


def test_money_is_hours_times_price_and_absent_without_one() -> None:
    found = speed(planned(Prices(currency="EUR", per_gpu_hour={H100: 3.0, L4: 3.0})))
    assert found.gpu_hours is not None
    assert found.cost == pytest.approx(3 * found.gpu_hours, abs=0.01)
    assert found.currency == "EUR"
    without = speed(planned())
    assert (without.cost, without.currency) == (None, "")
    assert without.gpu_hours is not None


def test_duration_is_steps_times_seconds_and_absent_while_steps_are_unknown() -> None:
    found = speed(planned(steps=1000))
    assert found.total_seconds == pytest.approx(1000 * found.step_seconds, rel=1e-3)
    unknown = speed(planned(steps=None))
    assert (unknown.total_seconds, unknown.gpu_hours, unknown.cost) == (None, None, None)
    assert unknown.step_seconds > 0


def test_a_type_without_a_price_is_compared_at_the_level_of_those_with_one() -> None:
    prices = PriceList(Prices(currency="EUR", per_gpu_hour={H100: 5.0}))
    level = 5.0 / gpu_of(H100).price
    assert prices.weight(L4, gpu_of(L4)) == pytest.approx(level * gpu_of(L4).price)
    assert prices.weight(H100, gpu_of(H100)) == 5.0
    assert prices.per_hour(L4) is None
    assert PriceList(NO_PRICES).weight(T4, gpu_of(T4)) == gpu_of(T4).price


@pytest.mark.parametrize("price", [0, -1, float("nan"), float("inf")])
def test_a_price_is_a_positive_number(price: float) -> None:
    with pytest.raises(ValueError, match="perGpuHour"):
        Prices.model_validate({"perGpuHour": {L4: price}})


def test_a_batch_is_as_long_as_its_longest_row() -> None:
    rows = histogram((100, 90), (1000, 10))
    assert usual_longest(rows, 1, 2048) == 190
    assert usual_longest(rows, 64, 2048) == 999
    assert usual_longest(rows, 64, 512) == 512


@given(
    st.lists(st.tuples(st.integers(1, 4000), st.integers(1, 50)), min_size=1, max_size=8, unique_by=lambda b: b[0]),
    st.integers(1, 64),
    st.integers(1, 4096),
)
def test_usual_lengths_lie_between_the_shortest_and_the_longest_row(
    buckets: list[tuple[int, int]], batch: int, cut: int
) -> None:
    rows = histogram(*sorted(buckets))
    length = usual_longest(rows, batch, cut)
    assert min(rows.minimum, cut) <= length <= min(rows.maximum, cut)
    assert length <= usual_longest(rows, 2 * batch, cut)
