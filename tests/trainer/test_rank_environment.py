"""What ranks find in their environment."""

from __future__ import annotations

from pathlib import Path

import pytest

from finetune_operator.api.compatibility import Offload, Strategy
from finetune_trainer.rank_environment import rank_environment
from finetune_trainer.rank_files import RunDirectory
from finetune_trainer.testing import tiny_plan

RUN = RunDirectory(Path("run"))


def test_segments_of_the_allocator_grow_so_that_batches_of_other_lengths_leave_no_holes() -> None:
    assert rank_environment(tiny_plan(), RUN, {})["PYTORCH_ALLOC_CONF"] == "expandable_segments:True"


def test_what_is_offloaded_is_pinned_without_being_rounded_up_and_gloo_is_beside_nccl() -> None:
    plan = tiny_plan(strategy=Strategy.FSDP, processes=2, offload=Offload.PARAMETERS)
    found = rank_environment(plan, RUN, {})
    assert found["PYTORCH_ALLOC_CONF"] == "expandable_segments:True,pinned_max_round_threshold_mb:1"
    assert found["FSDP_OFFLOAD_PARAMS"] == found["ACCELERATE_USE_FSDP"] == "true"


@pytest.mark.parametrize("name", ["PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"])
def test_what_the_user_says_of_the_allocator_and_of_threads_stays(name: str) -> None:
    given = {name: "max_split_size_mb:64", "OMP_NUM_THREADS": "3"}
    found = rank_environment(tiny_plan(), RUN, given)
    assert {key: found[key] for key in given} == given
    assert [key for key in found if key.endswith("ALLOC_CONF")] == [name]
