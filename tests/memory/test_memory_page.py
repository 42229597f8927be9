"""docs/explanation/memory.md has the margins of the code."""

from __future__ import annotations

from pathlib import Path

from finetune_operator.api.plan import GIB
from finetune_operator.memory import allocator, footprint
from finetune_operator.planner.pools import GPU_RESERVE

PAGE = (Path(__file__).parents[2] / "docs" / "explanation" / "memory.md").read_text()


def test_the_shares_of_upper_are_those_of_the_code() -> None:
    for row in (
        f"on one GPU needed at most 6 %) | {100 * allocator.UPPER_MARGIN:g} % |",
        f"| quantised weights | {100 * allocator.QUANTIZED_MARGIN:g} % more |",
        f"needed at most 12 % in all) | {100 * allocator.SHARDED_MARGIN:g} % more |",
        f"segments cannot grow (other programs) | {100 * allocator.VARIED_MARGIN:g} % more |",
        f"(less {100 * GPU_RESERVE:g} % reserve)",
        f"On the CPU it is {100 * footprint.CPU_MARGIN:g} % and {footprint.CPU_UPPER_CONSTANT * 1024 // GIB} MiB.",
    ):
        assert row in PAGE


def test_the_idle_shares_are_those_of_the_code() -> None:
    for words in (
        f"{allocator.PASSING_SHARE:.2f} by simulation",
        f"{allocator.WHOLE_LOGITS_SHARE:.2f} more where layers are computed again beside whole logits",
        f"{allocator.SHARDED_SHARE:.2f} more with FSDP 1",
        f"median, {allocator.PASSING_SHARE + allocator.WHOLE_LOGITS_SHARE:.2f}, less the first",
    ):
        assert words in PAGE
