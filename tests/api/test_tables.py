"""The closed tables are closed: every reason and exit code has its meaning."""

from __future__ import annotations

import pytest

from finetune_operator.api.compatibility import Strategy, resume_obstacle
from finetune_operator.api.durations import format_duration, parse_duration, parse_interval
from finetune_operator.api.evaluation import FIGURES, HELD_OUT_FIGURES, METRIC_MEANINGS, Metric, Requirements
from finetune_operator.api.exit_codes import EXIT_MEANINGS, ExitCode, meaning_of
from finetune_operator.api.impossible import IMPOSSIBLE, impossibility
from finetune_operator.api.measures import MEASURES
from finetune_operator.api.methods import Method
from finetune_operator.api.progress import TERMINATION_MESSAGE_LIMIT_BYTES, TerminationMessage
from finetune_operator.api.reasons import REASON_MEANINGS, Reason


def test_every_reason_has_a_meaning_and_a_remedy() -> None:
    assert set(REASON_MEANINGS) == set(Reason)
    assert all(row.meaning and row.remedy for row in REASON_MEANINGS.values())


def test_every_exit_code_has_a_meaning() -> None:
    assert set(EXIT_MEANINGS) == set(ExitCode)


def test_every_number_that_is_measured_can_be_required_and_has_a_meaning() -> None:
    numbers = {field.alias or name for name, field in Requirements.model_fields.items()} - {"tasks"}
    assert numbers == {*FIGURES, *HELD_OUT_FIGURES}
    assert set(FIGURES.values()) == set(METRIC_MEANINGS) == set(Metric)
    assert set(HELD_OUT_FIGURES) <= {"loss", *MEASURES}


def test_an_unknown_exit_code_is_a_trainer_error() -> None:
    assert meaning_of(3).reason is Reason.TRAINER_ERROR


def test_every_impossible_combination_says_why_and_what_to_do() -> None:
    assert all(row.why and row.remedy for row in IMPOSSIBLE)
    assert impossibility(Method.QLORA, Strategy.ZERO2, "gpu") in IMPOSSIBLE
    assert impossibility(Method.LORA, Strategy.FSDP, "cpu") is None


def test_checkpoints_go_on_with_other_processes_or_strategies_where_their_losses_stay_the_same() -> None:
    single, ddp, fsdp, zero2, zero3 = Strategy.SINGLE, Strategy.DDP, Strategy.FSDP, Strategy.ZERO2, Strategy.ZERO3
    for before, after in ((single, fsdp), (fsdp, single), (ddp, fsdp), (zero2, zero2), (fsdp, fsdp)):
        assert resume_obstacle(before, 2, after, 4) is None
    assert resume_obstacle(zero3, 2, zero3, 2) is None
    assert "other losses" in (resume_obstacle(zero3, 2, zero3, 4) or "")
    assert "strategy ddp" in (resume_obstacle(ddp, 2, zero2, 2) or "")
    assert resume_obstacle(zero2, 2, Strategy.ZERO1, 4) is None
    assert resume_obstacle(zero3, 2, zero3, 2, was_swapped=True, is_swapped=True) is None
    assert "on local disk" in (resume_obstacle(zero3, 2, zero3, 2, was_swapped=True) or "")
    assert "strategy zero2" in (resume_obstacle(zero2, 2, zero3, 2) or "")


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("10m", 600), ("24h", 86400), ("7d", 604800)])
def test_durations_are_read(text: str, seconds: int) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "10", "m10", "-1h", "1.5h", "0s"])
def test_what_is_not_a_duration_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ValueError, match="such as"):
        parse_duration(text)


def test_an_interval_is_steps_or_seconds() -> None:
    assert parse_interval("500steps").steps == 500
    assert parse_interval("10m").seconds == 600


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0s"), (59, "59s"), (61, "1m"), (3 * 3600 + 300, "3h05m"), (52 * 3600, "2d04h")]
)
def test_durations_are_shown_short(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


def test_a_long_termination_message_is_cut_to_what_the_kubelet_keeps() -> None:
    line = TerminationMessage(reason=Reason.INVALID_DATA, exit_code=41, message="ü" * 9000).to_line()
    assert len(line.encode()) <= TERMINATION_MESSAGE_LIMIT_BYTES
    assert TerminationMessage.model_validate_json(line).reason is Reason.INVALID_DATA
