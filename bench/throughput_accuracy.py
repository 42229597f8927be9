"""How close the roofline comes to speeds that others published: `python bench/throughput_accuracy.py CSV`; prints JSON, fractions.

CSV has the columns of the measured runs (docs/explanation/memory.md). Every row that states tokens/s, or samples/s or the seconds of a step
with known lengths, is predicted from its own columns without any history. The headline is about fine-tuning rows and throughput rows with
tokens/s, counted by `group`; beside it stands the rule of thumb of 6 operations per parameter and token at 40 % of the peak.
`--leave-one-out` fits the judged constants anew without each source and scores that source with them (half a minute).
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from speed.leave_one_out import leave_one_out
from speed.measured import read_rows
from speed.report import report, scored


def main() -> None:
    """Score and print."""
    parser = argparse.ArgumentParser(description="Score the throughput roofline on measured runs.")
    parser.add_argument("csv", type=Path, help="measured runs")
    parser.add_argument("--source", help="only rows of sources whose name contains this")
    parser.add_argument(
        "--leave-one-out", action="store_true", help="score each source with constants fitted without it"
    )
    options = parser.parse_args()
    try:
        rows = read_rows(options.csv)
    except (OSError, ValueError) as error:
        sys.exit(f"{options.csv} cannot be scored: {error}")
    results = scored([row for row in rows if not options.source or options.source in row.source])
    print(json.dumps(leave_one_out(results) if options.leave_one_out else report(results), indent=2))


if __name__ == "__main__":
    main()
