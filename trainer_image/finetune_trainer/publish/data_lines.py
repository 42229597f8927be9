"""The part of the model card that tells the data: where it was, how many rows of it were learned, and what its files were. No content of rows."""

from __future__ import annotations

from finetune_operator.api.inspection import DatasetFacts


def data_lines(facts: DatasetFacts) -> list[str]:
    """Return the section about what the model learned from."""
    lines = ["", "## Data", ""]
    if facts.sources:
        lines += [f"{facts.rows} rows of {len(facts.sources)} data sets:", ""]
        lines += [
            "| data set | format | weight | usable rows | learned in an epoch | evaluated | unusable |",
            "|---|---|---|---|---|---|---|",
        ]
        lines += [
            f"| `{each.uri}` | {each.format} | {each.weight:g} | {each.usable} | {each.rows} | {each.evaluated} | {each.dropped} |"
            for each in facts.sources
        ]
        lines += [""]
    else:
        lines += [f"{facts.rows} rows of `{facts.uri}` (format {facts.format}):", ""]
    if facts.filtered_by_reason:
        named = "; ".join(f"{count} ({reason})" for reason, count in facts.filtered_by_reason.items())
        lines += [f"Left out: {named}.", ""]
    lines += ["| file | bytes | ETag |", "|---|---|---|"]
    lines += [f"| `{file.uri}` | {file.size} | {file.etag or ''} |" for file in facts.files]
    if facts.labels:
        named = ", ".join(f"`{name}` ({count})" for name, count in facts.labels.items())
        lines += ["", f"Classes, with how often each stands in the rows: {named}."]
    return lines
