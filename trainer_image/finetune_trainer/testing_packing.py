"""TRL's own packing, for tests that compare ours with it; for `RankServer.call`."""

from __future__ import annotations


def sequences_of_trl(lengths: list[int], capacity: int) -> int:
    """Return how many sequences TRL's best-fit decreasing makes of rows of these lengths."""
    from datasets import Dataset
    from trl import pack_dataset

    rows = Dataset.from_dict({"input_ids": [[1] * length for length in lengths]})
    return len(pack_dataset(rows, capacity, "bfd"))
