"""Times as statuses and reports write them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

from finetune_operator.jobs.times import moment_of, seconds_since, text_of

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def test_a_time_is_written_in_utc_whatever_its_zone() -> None:
    assert text_of(NOON.astimezone(timezone(timedelta(hours=2)))) == "2026-01-01T12:00:00Z"


def test_a_time_without_a_zone_is_read_as_utc() -> None:
    assert moment_of("2026-01-01T12:00:00") == NOON


def test_what_another_clock_puts_into_the_future_happened_just_now() -> None:
    assert seconds_since(NOON + timedelta(seconds=5), NOON) == 0
    assert seconds_since(NOON, NOON + timedelta(hours=2)) == 7200
