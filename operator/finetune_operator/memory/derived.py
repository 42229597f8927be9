"""Results of pure functions of a model and a workload, kept with the model: a search asks the same of thousands of workloads that hardly differ.

They are looked up by every field of the workload but those that the function says it does not read. So a field that is added later counts
until somebody says otherwise; tests/memory/test_derived.py compares what is kept with what the functions say without memory.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from functools import wraps
from operator import attrgetter
from typing import Final, TypeVar, TypeVarTuple

from finetune_operator.memory.architecture import Architecture
from finetune_operator.memory.workload import Workload

Result = TypeVar("Result")
Rest = TypeVarTuple("Rest")

SPLIT: Final = (
    "micro_batch",
    "sequence_length",
    "accumulation",
    "processes",
    "strategy",
    "checkpointing",
    "syncs_every_batch",
    "loads_whole",
    "efficient_loading",
)
"""Fields that differ between the ways to run one job."""


def derived(
    *, without: tuple[str, ...] = SPLIT, but: tuple[str, ...] = ()
) -> Callable[[Callable[[Architecture, Workload, *Rest], Result]], Callable[[Architecture, Workload, *Rest], Result]]:
    """Keep what a function returns with its architecture; further arguments have to be hashable.

    Args:
        without: Fields of the workload that the function does not read.
        but: What it does read of them: fields, or properties that tell less.
    """
    what_it_reads = attrgetter(*(field.name for field in fields(Workload) if field.name not in without), *but)

    def keep(
        function: Callable[[Architecture, Workload, *Rest], Result],
    ) -> Callable[[Architecture, Workload, *Rest], Result]:
        @wraps(function)
        def kept(architecture: Architecture, workload: Workload, *rest: *Rest) -> Result:
            key = (function, what_it_reads(workload), rest)
            found: Result | None = architecture.derived.get(key)
            if found is None:
                found = architecture.derived[key] = function(architecture, workload, *rest)
            return found

        return kept

    return keep
