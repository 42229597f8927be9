"""The bar of `finetune run` while an attempt trains and evaluates: what the trainer tells, as people want to see it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn

from finetune_operator.api.run_events import (
    CheckpointEvent,
    EvaluatedEvent,
    EvaluatingEvent,
    ResumeEvent,
    RunEvent,
    StepEvent,
)
from finetune_operator.cli.tables import evaluation_table


@contextmanager
def attempt_progress(console: Console, number: int, total_steps: int) -> Iterator[Callable[[RunEvent], None]]:
    """Show a bar for attempt `number` of `total_steps` steps; yield what is to be called with each event."""
    columns = (
        SpinnerColumn(),
        TextColumn("attempt {task.fields[attempt]}"),
        BarColumn(),
        TextColumn("step {task.completed:.0f}/{task.total:.0f}  {task.fields[detail]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("train", total=total_steps, attempt=number, detail="starting …")

        def show(event: RunEvent) -> None:
            match event:
                case StepEvent():
                    rate = event.tokens / event.seconds if event.seconds else 0.0
                    detail = f"loss {event.loss:.4f}  {rate:,.0f} tokens/s"
                    progress.update(task, completed=event.step, detail=detail)
                case ResumeEvent():
                    progress.console.print(f"Resumed from the verified checkpoint of step {event.step}")
                    progress.update(task, completed=event.step)
                case EvaluatingEvent():
                    progress.update(task, detail=f"evaluating {event.rows}/{event.total_rows} rows")
                case EvaluatedEvent():
                    progress.console.print(evaluation_table(event.evaluated))
                case CheckpointEvent() if not event.verified:
                    progress.console.print(
                        f"[yellow]Checkpoint of step {event.step} rejected: {escape(event.problem)}[/yellow]"
                    )

        yield show
