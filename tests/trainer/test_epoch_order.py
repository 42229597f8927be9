"""An epoch's order depends on seed and epoch alone, and every global batch is full."""

from __future__ import annotations

from accelerate.data_loader import SeedableRandomSampler
from hypothesis import given
from hypothesis import strategies as st

from finetune_trainer.epoch_order import EpochOrder

seeds, steps = st.integers(0, 2**31 - 1), st.integers(0, 500)


@given(st.integers(1, 200), st.integers(1, 40), seeds, steps)
def test_an_epoch_has_every_sequence_and_begins_again_until_its_last_batch_is_full(
    sequences: int, batch: int, seed: int, step: int
) -> None:
    order = EpochOrder(sequences, batch, seed)
    order.begin(step)
    found = list(order)
    assert len(found) == len(order) == -(-sequences // batch) * batch
    assert sorted(found[:sequences]) == list(range(sequences))
    assert found[sequences:] == (found * batch)[: len(found) - sequences]


@given(seeds, steps)
def test_the_same_step_is_in_the_same_epoch_after_a_resume(seed: int, step: int) -> None:
    whole, resumed = EpochOrder(100, 8, seed), EpochOrder(100, 8, seed)
    whole.begin(step - step % 13)
    resumed.begin(step)
    assert list(whole) == list(resumed)
    resumed.begin(step + 13)
    assert list(whole) != list(resumed)


@given(st.integers(1, 100), st.integers(1, 8), seeds, st.integers(0, 5))
def test_the_order_is_that_of_a_plain_trl_script(sequences: int, batch: int, seed: int, epoch: int) -> None:
    theirs = SeedableRandomSampler(range(sequences), data_seed=seed)
    theirs.set_epoch(epoch)
    ours = EpochOrder(sequences, batch, seed)
    ours.begin(epoch * -(-sequences // batch))
    assert list(ours)[:sequences] == list(theirs)


@given(lengths=st.lists(st.integers(1, 50), min_size=1, max_size=300), batch=st.integers(1, 6), seed=seeds, step=steps)
def test_rows_of_about_one_length_share_batches_and_every_row_comes_once(
    lengths: list[int], batch: int, seed: int, step: int
) -> None:
    def padding(order: EpochOrder) -> int:
        order.begin(step)
        rows = list(order)
        batches = [[lengths[row] for row in rows[start : start + batch]] for start in range(0, len(rows), batch)]
        return sum(max(each) * len(each) - sum(each) for each in batches[: len(lengths) // batch])

    grouped = EpochOrder(len(lengths), batch, seed, lengths)
    grouped.begin(step)
    found = list(grouped)
    assert sorted(found[: len(lengths)]) == list(range(len(lengths)))
    assert len(found) == len(grouped)
    again = EpochOrder(len(lengths), batch, seed, lengths)
    again.begin(step)
    assert list(again) == found
    if len(lengths) % batch == 0 and len(lengths) <= 50 * batch:  # one window: no order pads less
        assert padding(grouped) <= padding(EpochOrder(len(lengths), batch, seed))
