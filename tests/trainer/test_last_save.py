"""One more checkpoint before a stop: the slowest rank and the shortest grace period decide, and the log has the figures."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from finetune_trainer.last_save import MARGIN_SECONDS, Outlook, forecast

GIB = 2**30


def test_the_slowest_rank_and_the_shortest_grace_period_decide() -> None:
    quick = Outlook(bytes=GIB, bytes_per_second=GIB, seconds_left=None)
    slow = Outlook(bytes=10 * GIB, bytes_per_second=0.5 * GIB, seconds_left=None)
    told = Outlook(bytes=0, bytes_per_second=GIB, seconds_left=15.0)

    assert forecast([quick, told]).fits
    found = forecast([quick, slow, told])
    assert not found.fits
    assert found.sentence == (
        "there is no time for one more checkpoint: 10737418240 bytes of the slowest rank at 5.37e+08 bytes/s, as its last upload had, "
        "take 20.0 s, and 15.0 s of the grace period are left"
    )


def test_what_nobody_has_measured_is_tried() -> None:
    unknown = Outlook(bytes=0, bytes_per_second=None, seconds_left=1.0)

    assert forecast([unknown]).fits
    assert "no upload was measured yet" in forecast([unknown]).sentence


@given(st.lists(st.tuples(st.integers(0, 10**12), st.floats(1e3, 1e10)), min_size=1, max_size=4), st.floats(0, 1e5))
def test_it_fits_exactly_when_every_rank_is_done_in_time(shares: list[tuple[int, float]], left: float) -> None:
    outlooks = [Outlook(size, rate, left if number == 0 else None) for number, (size, rate) in enumerate(shares)]

    assert forecast(outlooks).fits == all(size / rate + MARGIN_SECONDS <= left for size, rate in shares)
