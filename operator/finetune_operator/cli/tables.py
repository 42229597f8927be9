"""Plans, inspections and measurements as tables for people; programs use `-o json`."""

from __future__ import annotations

from collections.abc import Mapping

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from finetune_operator.api.durations import format_duration
from finetune_operator.api.evaluated import Evaluated
from finetune_operator.api.inspection import InspectionReport
from finetune_operator.api.plan import GIB, Component, MemoryEstimate, Plan, Throughput
from finetune_operator.planner.pools import gib


def _facts(title: str, rows: list[tuple[str, str]]) -> Table:
    table = Table(title=title, title_justify="left", show_header=False, box=None, padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True, style="bold")
    table.add_column()
    for name, value in rows:
        # As text: rich would read brackets of a file's name as a style.
        table.add_row(name, Text(value))
    return table


def plan_table(plan: Plan) -> RenderableType:
    """Return a plan as people read it: what runs, its memory by phase and component, what pods ask for, why, and what was assumed."""
    parts: list[RenderableType] = [_facts("Plan", _plan_rows(plan)), Text(), memory_table(plan)]
    parts += _sentences("Why", plan.reasons) + _sentences("Assumed", plan.assumptions)
    return Group(*parts)


def _plan_rows(plan: Plan) -> list[tuple[str, str]]:
    if plan.accelerator == "gpu":
        memory = f" ({gib(plan.gpu_memory_bytes)} GiB each)" if plan.gpu_memory_bytes else ""
        devices = f"{plan.gpus} × {plan.gpu_product}{memory}"
    else:
        devices = f"CPU, {_count(plan.processes, 'process', 'processes')}"
    resources = plan.resources
    asks = [f"{resources.cpu_millicores / 1000:g} CPU", f"{gib(resources.memory_bytes)} GiB memory"]
    asks.append(f"{gib(resources.shared_memory_bytes)} of it /dev/shm")
    if resources.ephemeral_storage_bytes:
        asks.append(f"{gib(resources.ephemeral_storage_bytes)} GiB disk")
    if resources.gpus:
        asks.insert(0, _count(resources.gpus, "GPU", "GPUs"))
    share = 100 * plan.trainable_parameters / plan.total_parameters
    return [
        ("Devices", devices),
        ("Pods", f"{plan.pods}, {_count(plan.processes_per_pod, 'process', 'processes')} each"),
        ("Strategy", f"{plan.strategy}, gradient checkpointing {plan.gradient_checkpointing}, offload {plan.offload}"),
        (
            "Batch",
            f"{plan.global_batch_size} = {plan.micro_batch_size} per process × {plan.gradient_accumulation} accumulated × "
            f"{_count(plan.processes, 'process', 'processes')}; up to {plan.max_length} tokens each",
        ),
        ("Steps", _steps(plan)),
        *_speed_rows(plan.throughput),
        ("Trained", f"{plan.trainable_parameters:,} of {plan.total_parameters:,} parameters ({share:.4g} %)"),
        ("Each pod", ", ".join(asks)),
    ]


def _speed_rows(throughput: Throughput | None) -> list[tuple[str, str]]:
    """Speed, duration and money, each estimated; what is not known is left out."""
    if throughput is None:
        return []
    rate = throughput.tokens_per_second
    shown_rate = f"{rate:,.0f}" if rate >= 10 else f"{rate:.2g}"
    rows = [("Speed", f"about {_step_time(throughput.step_seconds)} per step, {shown_rate} tokens/s")]
    if throughput.total_seconds is not None:
        parts = [f"about {format_duration(throughput.total_seconds)}"]
        if throughput.gpu_hours is not None:
            parts.append(f"{throughput.gpu_hours:.3g} GPU-hours")
        if throughput.cost is not None:
            parts.append(f"{throughput.cost:,.2f} {throughput.currency}".rstrip())
        rows.append(("Duration", ", ".join(parts)))
    return rows


def _step_time(seconds: float) -> str:
    return f"{seconds:.3g} s" if seconds < 1000 else format_duration(seconds)


def _count(number: int, singular: str, plural: str) -> str:
    return f"{number} {singular if number == 1 else plural}"


def _steps(plan: Plan) -> str:
    if plan.sequences:
        of_what = f"{plan.sequences:,} packed sequences" if plan.packed else f"{plan.sequences:,} rows"
        return f"{plan.total_steps:,} in all, {plan.steps_per_epoch:,} per epoch of {of_what}"
    return f"{plan.total_steps:,} in all" if plan.total_steps else "unknown until the data is inspected"


def memory_table(plan: Plan) -> Table:
    """Return the memory of one process by phase and component, in GiB; the peak is the highest phase."""
    memory = plan.memory
    what = "GPU memory" if plan.accelerator == "gpu" else "Resident memory"
    return phases_table(
        memory,
        f"{what} per process, GiB: {gib(memory.expected_bytes)} expected, {gib(memory.upper_bytes)} at most",
    )


def phases_table(memory: MemoryEstimate, title: str = "") -> Table:
    """Return bytes by phase and component as GiB; the peak's phase is marked."""
    table = Table(title=title or None, title_justify="left", box=None, padding=(0, 2, 0, 0))
    table.add_column("" if title else "GiB")
    for phase in memory.phases:
        peak = phase.phase == memory.peak_phase
        table.add_column(phase.phase.value + (" ◀" if peak else ""), justify="right", style="bold" if peak else None)
    for component in Component:
        sizes = [phase.components.get(component, 0) for phase in memory.phases]
        if any(sizes):
            table.add_row(component.value, *(f"{size / GIB:.2f}" if size else "" for size in sizes))
    table.add_section()
    table.add_row("sum", *(f"{phase.total / GIB:.2f}" for phase in memory.phases))
    return table


def _sentences(title: str, sentences: tuple[str, ...]) -> list[RenderableType]:
    if not sentences:
        return []
    return [Text(), Text(title, style="italic"), *(_hanging(sentence) for sentence in sentences)]


def _hanging(sentence: str) -> Table:
    """A sentence whose further lines stand below its own begin, not below its title's."""
    table = Table.grid(padding=0)
    table.add_row("  - ", Text(sentence))
    return table


def inspection_table(inspection: InspectionReport) -> RenderableType:
    """Return what was learned about model and data; never the content of a row."""
    model, dataset = inspection.model, inspection.dataset
    tokens = dataset.tokens
    kept = f" and {dataset.evaluation.rows:,} to evaluate on" if dataset.evaluation else ""
    rows = [
        ("Model", f"{model.uri}{f' @ {model.revision[:12]}' if model.revision else ''}"),
        (
            "Architecture",
            f"{model.architecture}, {model.parameters:,} parameters, {gib(model.weight_bytes)} GiB stored",
        ),
        *(
            ("Reward model", f"{judge.uri}: {judge.architecture}, {judge.parameters:,} parameters")
            for judge in inspection.reward_models
        ),
        ("Data", f"{dataset.uri} ({dataset.format})"),
        (
            "Rows",
            f"{dataset.rows:,} usable{kept}, {dataset.dropped:,} dropped, {dataset.filtered:,} filtered out, {dataset.duplicates:,} equal to an "
            "earlier one",
        ),
        (
            "Tokens",
            f"{tokens.total:,} in all; a row has {tokens.minimum} to {tokens.maximum}, median {tokens.median}, 99 % up to "
            f"{tokens.percentile_99}; {dataset.truncated:,} rows are cut",
        ),
    ]
    rows[3:3] = [
        (
            f"  weight {each.weight:g}",
            f"{each.uri} ({each.format}): {each.usable:,} usable rows make {each.rows:,}; {each.evaluated:,} to evaluate on, "
            f"{each.dropped:,} dropped",
        )
        for each in dataset.sources
    ]
    rows += [(f"  {problem.file}:{problem.line}", problem.reason) for problem in dataset.problems[:5]]
    return _facts("Inspection", rows)


def memory_comparison_table(plan: Plan, peaks: Mapping[int, int]) -> RenderableType:
    """Return the predicted and the measured peak of every rank; `peaks` holds bytes by rank."""
    memory = plan.memory
    table = Table(title="Peak memory, GiB", title_justify="left", box=None, padding=(0, 2, 0, 0))
    for name in ("rank", "expected", "at most", "measured", "measured / expected"):
        table.add_column(name, justify="right")
    for rank, measured in sorted(peaks.items()):
        table.add_row(
            str(rank),
            f"{memory.expected_bytes / GIB:.2f}",
            f"{memory.upper_bytes / GIB:.2f}",
            f"{measured / GIB:.2f}",
            f"{measured / memory.expected_bytes:.2f}",
        )
    return table


def evaluation_table(evaluated: Evaluated) -> RenderableType:
    """Return what was measured of base and tuned model."""
    title = f"Evaluation on {_count(evaluated.rows, 'row', 'rows')}"
    table = Table(title=title, title_justify="left", box=None, padding=(0, 2, 0, 0))
    table.add_column("metric")
    for name in ("base", "tuned"):
        table.add_column(name, justify="right")
    for figure in evaluated.figures:
        table.add_row(figure.name, "" if figure.base is None else f"{figure.base:.4g}", f"{figure.tuned:.4g}")
    return table
