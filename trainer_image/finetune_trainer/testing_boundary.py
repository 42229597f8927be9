"""The end of steps without a training; for `RankServer.call` (testing_ranks.py)."""

from __future__ import annotations


def boundary_case(every: str, uploading: list[bool], stop_at: int, seconds_left: float | None = None) -> list[bool]:
    """Return at which steps, from 1, a checkpoint is saved when the one before is `uploading`; for `RankServer.call`.

    A checkpoint takes 10 s to send.
    """
    from unittest.mock import Mock

    from transformers import TrainerControl

    from finetune_operator.api.durations import parse_interval
    from finetune_trainer.collective import Collective
    from finetune_trainer.last_save import Outlook
    from finetune_trainer.step_boundary import SaveSchedule, StepBoundary

    stop, writer = Mock(requested=False), Mock(has_pending=True, is_struggling=False)
    writer.outlook.return_value = Outlook(bytes=1000, bytes_per_second=100, seconds_left=seconds_left)
    schedule = SaveSchedule(parse_interval(every), 0.0, 0)
    boundary = StepBoundary(schedule, len(uploading), stop, writer, Collective(1), is_first=True, clock=lambda: 0.0)
    saves = []
    for step, writer.is_uploading in enumerate(uploading, 1):
        stop.requested = step == stop_at
        control = boundary.on_step_end(Mock(device="cpu"), Mock(global_step=step), TrainerControl())
        saves.append(bool(control.should_save))
    return saves
