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
