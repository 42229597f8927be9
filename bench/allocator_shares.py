"""What torch's caching allocator holds idle in runs that others published: `python bench/allocator_shares.py CSV`; prints JSON.

Per run with steps of one length: (held - live - LASTING_SHARE x what stays) / what passes, where

- held is the source's figure of reserved memory, or nvidia-smi's less the predicted CUDA context and NCCL;
- live is `max_memory_allocated` where the source prints it beside, else the predicted live bytes: such a share carries the closed form's error;
- what passes are the predicted activations and logits, and the temporaries of backward passes.

The data behind WHOLE_LOGITS_SHARE and SHARDED_SHARE in memory/allocator.py. A figure whose kind its source does not state says nothing here.
Reruns of one configuration count once, by their median. `beside_whole_logits` is the median over sources of each source's median, so that the
one with the most rows does not decide.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from accuracy.models import architecture_of_row
from accuracy.prediction import Prediction, predict
from accuracy.rows import MetricKind, Row, read_rows
from accuracy.stacks import stack_of

from finetune_operator.api.compatibility import Checkpointing
from finetune_operator.memory.allocator import LASTING_SHARE, WHOLE_LOGITS
from finetune_operator.memory.workload import Workload

LEAST_PASSING_GIB: Final = 1.0
"""Below it a figure's own digits decide the share."""


@dataclass(frozen=True)
class IdleRun:
    """One run's idle share, and what may explain it."""

    source: str
    group: str
    checkpointed: bool
    whole_logits: bool
    sharded: bool
    share: float

    @property
    def case(self) -> str:
        """The run's way to train, in words."""
        layers = "checkpointed" if self.checkpointed else "kept"
        return f"{layers}, {'whole logits' if self.whole_logits else 'no whole logits'}, {'sharded' if self.sharded else 'one GPU'}"


def idle_run(row: Row) -> IdleRun | None:
    """Return what a row says about idle memory; None where it says nothing."""
    prediction, architecture = predict(row), architecture_of_row(row)
    if not isinstance(prediction, Prediction) or isinstance(architecture, str):
        return None
    workload = stack_of(row).workload(row, architecture)
    if not isinstance(workload, Workload) or workload.varied_lengths:
        return None
    parts = prediction.components
    passing = sum(parts.get(name, 0.0) for name in ("activations", "logits"))
    passing += parts.get("temporaries", 0.0) if passing else 0.0
    figures = _held_and_live(row, parts)
    if figures is None or passing < LEAST_PASSING_GIB:
        return None
    held, live = figures
    return IdleRun(
        source=row.source,
        group=row.group,
        checkpointed=workload.checkpointing is not Checkpointing.NONE,
        whole_logits=workload.loss in WHOLE_LOGITS,
        sharded=workload.shards > 1,
        share=(held - live - LASTING_SHARE * max(0.0, live - passing)) / passing,
    )


def _held_and_live(row: Row, parts: Mapping[str, float]) -> tuple[float, float] | None:
    outside = parts.get("runtime", 0.0) + parts.get("communication", 0.0)
    allocated, reserved, device = (row.number(name) for name in ("alloc_gib", "reserved_gib", "nvidia_smi_gib"))
    if allocated and (device or reserved):
        return (device - outside if device else reserved or 0.0), allocated
    if row.measured_gib is None or row.stated_kind not in (MetricKind.RESERVED, MetricKind.DEVICE):
        return None
    inside = row.measured_gib - (outside if row.stated_kind is MetricKind.DEVICE else 0.0)
    kept_apart = ("fragmentation", "runtime", "communication")
    return inside, sum(size for name, size in parts.items() if name not in kept_apart)


def spread(runs: Iterable[IdleRun]) -> dict[str, float]:
    """Return how the groups' shares are spread."""
    groups: dict[str, list[float]] = {}
    for run in runs:
        groups.setdefault(run.group, []).append(run.share)
    shares = sorted(statistics.median(shares) for shares in groups.values())
    return {
        "groups": len(shares),
        "median": round(statistics.median(shares), 2),
        "lower_quartile": round(shares[len(shares) // 4], 2),
        "upper_quartile": round(shares[3 * len(shares) // 4], 2),
    }


def report(runs: Iterable[IdleRun]) -> dict[str, Any]:
    """Return the spread by way to train and source, and what counts beside whole logits."""
    known = tuple(runs)
    cases: dict[str, Any] = {}
    for case in sorted({run.case for run in known}):
        cases[case] = _by_source(run for run in known if run.case == case)
    beside = _by_source(run for run in known if run.checkpointed and run.whole_logits)
    return {
        "cases": cases,
        "beside_whole_logits": {
            "by_source": beside,
            "median": round(statistics.median(found["median"] for found in beside.values()), 2) if beside else None,
        },
    }


def _by_source(runs: Iterable[IdleRun]) -> dict[str, dict[str, float]]:
    known = tuple(runs)
    return {
        source: spread(run for run in known if run.source == source) for source in sorted({run.source for run in known})
    }


def main() -> None:
    """Read and print."""
    parser = argparse.ArgumentParser(description="Idle shares of the caching allocator in measured runs.")
    parser.add_argument("csv", type=Path, help="measured runs")
    options = parser.parse_args()
    try:
        rows = read_rows(options.csv)
    except (OSError, ValueError) as error:
        sys.exit(f"{options.csv} cannot be read: {error}")
    print(json.dumps(report(run for run in map(idle_run, rows) if run is not None), indent=2))


if __name__ == "__main__":
    main()
