"""How close the memory estimator comes to runs that others published: `python bench/memory_accuracy.py CSV`; prints JSON, fractions.

CSV has the columns of the measured runs (docs/explanation/memory.md); every row with `use` = memory is predicted from its own columns and
compared with its own metric kind, and everything is counted by `group`. `--table` prints the report for people, `--worst N` the largest
errors with what was predicted to be held; `--source` and `--method` keep some rows only.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from accuracy.report import report, scored
from accuracy.rows import read_rows
from accuracy.tables import report_table, worst_table
from rich.console import Console


def main() -> None:
    """Score and print."""
    parser = argparse.ArgumentParser(description="Score the memory estimator on measured runs.")
    parser.add_argument("csv", type=Path, help="measured runs")
    parser.add_argument("--table", action="store_true", help="a table for people instead of JSON")
    parser.add_argument("--worst", type=int, metavar="N", help="list the N groups with the largest errors")
    parser.add_argument("--source", help="only rows of sources whose name contains this")
    parser.add_argument("--method", help="only rows of this method")
    options = parser.parse_args()
    try:
        rows = read_rows(options.csv)
    except (OSError, ValueError) as error:
        sys.exit(f"{options.csv} cannot be scored: {error}")
    kept = [
        row
        for row in rows
        if (not options.source or options.source in row.source) and options.method in (None, row.method)
    ]
    results = scored(kept)
    console = Console(width=None if sys.stdout.isatty() else 200)
    if options.table:
        console.print(report_table(results))
    if options.worst:
        console.print(worst_table(results, options.worst))
    if not options.table and not options.worst:
        print(json.dumps(report(results), indent=2))


if __name__ == "__main__":
    main()
