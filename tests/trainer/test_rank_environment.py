"""What ranks find in their environment."""

from __future__ import annotations

from pathlib import Path

import pytest

from finetune_trainer.rank_environment import rank_environment
from finetune_trainer.rank_files import RunDirectory

RUN = RunDirectory(Path("run"))


def test_segments_of_the_allocator_grow_so_that_batches_of_other_lengths_leave_no_holes() -> None:
    assert rank_environment(1, RUN, {})["PYTORCH_ALLOC_CONF"] == "expandable_segments:True"


@pytest.mark.parametrize("name", ["PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"])
def test_what_the_user_says_of_the_allocator_and_of_threads_stays(name: str) -> None:
    given = {name: "max_split_size_mb:64", "OMP_NUM_THREADS": "3"}
    found = rank_environment(1, RUN, given)
    assert {key: found[key] for key in given} == given
    assert [key for key in found if key.endswith("ALLOC_CONF")] == [name]
