"""How close the memory estimator comes to fake-tensor traces of generated configurations: `python bench/memory_oracle.py`.

Prints JSON (fractions); `--table` prints a table for people, the largest errors first. `--family llama` keeps one family, `--per-family N`
draws N cases of each, `--case NAME` shows one case with all its fields. Traces take a minute per ten cases: `--traces FILE` writes each down
when it is made and reads those that are there, so that an interrupted run goes on and a change of the closed form needs no trace.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import warnings
from collections import defaultdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from tqdm import tqdm
from traced.cases import draw_cases
from traced.comparison import Comparison, as_json, compare, summary, traced_case
from traced.store import TraceStore

from finetune_operator.api.plan import PlanError

MIB = 2**20


def main() -> None:
    """Trace, compare and print."""
    parser = argparse.ArgumentParser(description="Compare the memory estimator with fake-tensor traces.")
    parser.add_argument("--seed", type=int, default=4)
    parser.add_argument("--per-family", type=int, default=7)
    parser.add_argument("--family", action="append", help="only this family; may be given several times")
    parser.add_argument("--case", help="only the case of this name, such as llama-3")
    parser.add_argument("--traces", type=Path, help="a file of traces to read and to add to")
    parser.add_argument("--known", action="store_true", help="only what --traces has: trace nothing")
    parser.add_argument("--table", action="store_true", help="a table for people instead of JSON")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)  # transformers and torch log what does not matter to shapes
    cases = [
        case
        for case in draw_cases(options.seed, options.per_family)
        if (not options.family or case.config["model_type"] in options.family) and options.case in (None, case.name)
    ]
    store = TraceStore(options.traces) if options.traces else None
    found: list[Comparison] = []
    unknown: dict[str, str] = {}
    failed: dict[str, str] = {}
    for case in tqdm(cases, desc="traced", file=sys.stderr, disable=options.known):
        traced = store.get(case) if store else None
        if traced is None:
            if options.known:
                continue
            try:
                traced = traced_case(case)
            except Exception as error:
                failed[case.name] = f"{type(error).__name__}: {str(error)[:300]}"
                continue
            if store:
                store.add(case, traced)
        result = compare(case, traced)
        if isinstance(result, PlanError):
            unknown[case.config["model_type"]] = result.message[:120]
        else:
            found.append(result)
    by_family: dict[str, list[Comparison]] = defaultdict(list)
    for each in found:
        by_family[each.case.config["model_type"]].append(each)
    report: dict[str, Any] = {
        "drawn": len(cases),
        "all": summary(found) if found else {},
        "by_family": {family: summary(some) for family, some in by_family.items()},
        "unknown_to_the_closed_form": unknown,
        "failed": failed,
        "cases": [as_json(each) for each in found],
    }
    if options.table:
        print_tables(report, sorted(found, key=lambda each: -abs(each.error)))
    else:
        print(json.dumps(report, indent=1, default=str))


def print_tables(report: dict[str, Any], comparisons: list[Comparison]) -> None:
    """Print the report for people."""
    console = Console(width=None if sys.stdout.isatty() else 230)
    table = Table("case", "workload", "predicted MiB", "traced MiB", "error", "traced peak in", "error per phase")
    for each in comparisons:
        phases = " ".join(f"{name} {100 * error:+.1f}" for name, error in each.phase_errors().items())
        table.add_row(
            each.name,
            describe(each),
            f"{each.predicted / MIB:.1f}",
            f"{each.traced.peak / MIB:.1f}",
            f"{100 * each.error:+.2f} %",
            each.traced.peak_phase,
            phases,
        )
    console.print(table)
    families = Table("family", "cases", "median error", "largest", "within 2 %")
    for family, part in {"all": report["all"], **report["by_family"]}.items():
        families.add_row(
            family,
            str(part["cases"]),
            f"{100 * part['median_abs_error']:.2f} %",
            f"{100 * part['max_abs_error']:.2f} %",
            f"{100 * part['within_2_percent']:.0f} %",
        )
    console.print(families)
    for title in ("unknown_to_the_closed_form", "failed"):
        for name, why in report[title].items():
            console.print(f"{title.replace('_', ' ')}: {name}: {why}")


def describe(comparison: Comparison) -> str:
    """Return the workload in a few words."""
    w = comparison.case.workload
    parts = [
        w.tuning.value if w.quantization.value == "none" else "qlora",
        "bf16" if not w.numerics.autocast else "autocast",
        f"b{w.micro_batch} s{w.sequence_length}",
        "ckpt" if w.checkpointing.value == "full" else "",
        w.loss.value,
        "accum" if w.accumulation > 1 else "",
        "mask" if w.has_padding_mask else "",
        w.attention.value if w.attention.value != "sdpa" else "",
        f"dropout {w.dropout}" if w.dropout else "",
        "qv" if w.targets != ("all-linear",) and w.has_adapters else "",
        w.optimizer.value if w.optimizer.value != "adamw" else "",
        w.goal.value if w.goal.value != "sft" else "",
    ]
    return " ".join(part for part in parts if part)


if __name__ == "__main__":
    main()
