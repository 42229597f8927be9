"""The memory of one process as a picture: a stacked bar per phase, a cell's letter and colour its component, and the figures beneath."""

from __future__ import annotations

from typing import Final

from rich.columns import Columns
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from finetune_operator.api.plan import GIB, Component, MemoryEstimate, PhaseMemory
from finetune_operator.cli.tables import phases_table
from finetune_operator.planner.pools import GPU_RESERVE, gib

COLOURS: Final = {
    Component.WEIGHTS: "white on blue",
    Component.GRADIENTS: "black on cyan",
    Component.OPTIMIZER: "white on magenta",
    Component.ACTIVATIONS: "black on yellow",
    Component.LOGITS: "black on green",
    Component.TEMPORARIES: "black on bright_red",
    Component.COMMUNICATION: "black on bright_cyan",
    Component.RUNTIME: "white on bright_black",
    Component.FRAGMENTATION: "black on white",
}
"""The letter is the component's first one, so that bars can be read without colours; all first letters differ."""

LEAST_CELLS: Final = 20
MOST_CELLS: Final = 100


def estimate_picture(memory: MemoryEstimate, title: str, capacity: int | None, *, width: int) -> RenderableType:
    """Return bars, legend and tables; `capacity` is the GPU's memory in bytes, `width` the terminal's columns."""
    return Group(
        Text(title),
        Text(),
        phase_bars(memory, capacity, width=width),
        Text(),
        phases_table(memory),
        Text(),
        ranges_table(memory, capacity),
    )


def phase_bars(memory: MemoryEstimate, capacity: int | None, *, width: int) -> RenderableType:
    """Return one stacked bar per phase, to one scale: the larger of `upper` and the GPU's memory; `│` marks `upper`, `┃` the GPU's memory."""
    longest = max(len(phase.phase.value) for phase in memory.phases)
    cells = max(LEAST_CELLS, min(MOST_CELLS, width - longest - 14))
    scale = max(memory.upper_bytes, capacity or 0)
    lines = [_bar_line(memory, phase, capacity, cells, scale, longest) for phase in memory.phases]
    used = {component for phase in memory.phases for component, size in phase.components.items() if size}
    names = [Text.assemble((f" {_letter(c)} ", COLOURS[c]), f" {c.value}") for c in Component if c in used]
    legend = Padding(Columns(names, padding=(0, 2)), (0, 0, 0, longest + 2))
    marks = f"│ at most {gib(memory.upper_bytes)} GiB" + (f"   ┃ GPU {gib(capacity)} GiB" if capacity else "")
    return Group(*lines, Text(), legend, Text(" " * (longest + 2) + marks))


def _bar_line(
    memory: MemoryEstimate, phase: PhaseMemory, capacity: int | None, cells: int, scale: int, longest: int
) -> Text:
    line = Text(f"{phase.phase.value:<{longest}}  ", style="bold" if phase.phase == memory.peak_phase else "")
    filled = 0
    passed = 0
    for component in Component:
        passed += phase.components.get(component, 0)
        # Cells are counted from the running sum, so that rounding never adds up.
        end = round(cells * passed / scale)
        line.append(_letter(component) * (end - filled), COLOURS[component])
        filled = end
    rest = [" "] * (cells + 1 - filled)
    for size, mark in ((memory.upper_bytes, "│"), (capacity, "┃")):
        if size is not None and (place := round(cells * size / scale)) >= filled:
            rest[place - filled] = mark
    line.append("".join(rest)).append(f" {gib(phase.total):>6} GiB")
    return line


def _letter(component: Component) -> str:
    return component.value[0].upper()


def ranges_table(memory: MemoryEstimate, capacity: int | None) -> Table:
    """Return allocated, reserved and device memory at the peak, each expected and at most, in GiB."""
    table = Table(box=None, padding=(0, 2, 0, 0))
    for name in ("peak, GiB", "expected", "at most", ""):
        table.add_column(name, justify="left" if name in ("peak, GiB", "") else "right")
    device = memory.device
    verdict = ""
    if capacity is not None:
        share = 100 * device.upper_bytes / capacity
        fits = device.upper_bytes <= capacity * (1 - GPU_RESERVE)
        verdict = f"; {'fits' if fits else 'does not fit'}: {share:.0f} % of the GPU"
    rows = (
        ("allocated", memory.allocated, "torch.cuda.max_memory_allocated"),
        ("reserved", memory.reserved, "torch.cuda.max_memory_reserved"),
        ("device", device, f"nvidia-smi{verdict}"),
    )
    for name, found, shown_by in rows:
        table.add_row(name, f"{found.expected_bytes / GIB:.2f}", f"{found.upper_bytes / GIB:.2f}", shown_by)
    return table
