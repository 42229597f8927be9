"""What a chosen plan says of its speed: with sequences of usual length, over all steps, in GPU-hours and money."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from finetune_operator.api.plan import Throughput
from finetune_operator.planner.candidate import Candidate
from finetune_operator.planner.lengths import usual_longest
from finetune_operator.planner.task import Task
from finetune_operator.planner.throughput import step_seconds

HOUR: Final = 3600.0


def throughput_of(task: Task, chosen: Candidate, steps: int) -> Throughput:
    """Return the plan's speed; `steps` is 0 while their number is unknown.

    The search compares plans by full-length sequences. What data usually brings is shorter: its step is the candidate's, history's correction
    included, times the ratio of the roofline's two times.
    """
    workload, gpu = chosen.sized.workload, chosen.pool.gpu
    length = task.sequence_length
    seconds = chosen.seconds
    if task.lengths is not None:
        length = min(usual_longest(task.lengths, chosen.split.micro_batch, length), length)
        usual = step_seconds(task.architecture, replace(workload, sequence_length=length), gpu, chosen.per_pod)
        seconds *= usual / step_seconds(task.architecture, workload, gpu, chosen.per_pod)
    total = seconds * steps if steps else None
    is_gpu = chosen.pool.product is not None
    hours = total * chosen.split.processes / HOUR if total is not None and is_gpu else None
    price = task.prices.per_hour(chosen.pool.product)
    return Throughput(
        step_seconds=_significant(seconds),
        tokens_per_second=_significant(
            task.spec.training.global_batch_size * workload.sequences_per_row * length / seconds
        ),
        total_seconds=None if total is None else _significant(total),
        gpu_hours=None if hours is None else _significant(hours),
        cost=None if hours is None or price is None else round(hours * price, 2),
        currency=task.prices.currency if price is not None else "",
    )


def _significant(value: float) -> float:
    """Four digits: more would pretend to be known."""
    return float(f"{value:.4g}")
