from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from finetune_operator.api.inspection import HISTOGRAM_BUCKETS
from finetune_trainer.inspect.histogram import histogram
from finetune_trainer.seen import SeenDigests


@given(st.lists(st.integers(min_value=1, max_value=200_000), min_size=1, max_size=300))
def test_a_histogram_counts_every_row_once_in_its_bucket(lengths: list[int]) -> None:
    found = histogram(Counter(lengths))
    assert len(found.counts) <= HISTOGRAM_BUCKETS
    assert len(found.edges) == len(found.counts) + 1
    assert sorted(set(found.edges)) == list(found.edges)
    for low, high, count in zip(found.edges, found.edges[1:], found.counts, strict=False):
        assert count == sum(low <= length < high for length in lengths)
    assert sum(found.counts) == len(lengths)
    assert (found.minimum, found.maximum, found.total) == (min(lengths), max(lengths), sum(lengths))
    ordered = sorted(lengths)
    assert found.median == ordered[(len(ordered) - 1) // 2]
    assert found.percentile_99 == ordered[-(-len(ordered) * 99 // 100) - 1]


def test_few_lengths_get_a_bucket_each() -> None:
    assert histogram(Counter([3, 3, 5])).edges == (3, 4, 5, 6)


@given(st.lists(st.integers(min_value=1, max_value=2**64 - 1) | st.integers(min_value=1, max_value=50), max_size=200))
def test_digests_are_remembered_like_in_a_set(digests: list[int]) -> None:
    seen, known = SeenDigests(), set[int]()
    for digest in digests:
        assert seen.add(digest) == (digest not in known)
        known.add(digest)


def test_digests_are_remembered_while_the_table_grows() -> None:
    seen = SeenDigests()
    digests = [number * 0x9E3779B97F4A7C15 % 2**64 for number in range(1, 20_001)]
    assert all(seen.add(digest) for digest in digests)
    assert not any(seen.add(digest) for digest in digests)
