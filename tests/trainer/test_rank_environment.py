"""What ranks find in their environment."""

from __future__ import annotations

from pathlib import Path

import pytest

from finetune_operator.api.compatibility import Offload, Strategy
from finetune_trainer.network import default_interface
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


ROUTES = """Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT
net1\t0000A8C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0
net1\t00000000\t0100A8C0\t0003\t0\t0\t100\t00000000\t0\t0\t0
eth0\t00000000\t0100000A\t0003\t0\t0\t0\t00000000\t0\t0\t0
"""


def test_pods_meet_over_the_interface_that_leads_out_of_them() -> None:
    assert default_interface(ROUTES) == "eth0"
    assert default_interface("") is None
    two_pods = tiny_plan(strategy=Strategy.DDP, processes=2, pods=2)
    found = rank_environment(two_pods, RUN, {}, interface="eth0")
    assert (found["GLOO_SOCKET_IFNAME"], found["NCCL_SOCKET_IFNAME"]) == ("eth0", "=eth0")
    one_pod = rank_environment(tiny_plan(strategy=Strategy.DDP, processes=2), RUN, {}, interface="eth0")
    assert not any(name.endswith("_IFNAME") for name in one_pod)


@pytest.mark.parametrize(
    ("given", "gloo"),
    [
        ({"NCCL_SOCKET_IFNAME": "=net1"}, "net1"),
        ({"NCCL_SOCKET_IFNAME": "eth", "GLOO_SOCKET_IFNAME": "net2"}, "net2"),
        ({"NCCL_SOCKET_IFNAME": "^docker"}, "eth0"),
    ],
)
def test_an_interface_that_the_user_names_stays(given: dict[str, str], gloo: str) -> None:
    plan = tiny_plan(strategy=Strategy.DDP, processes=2, pods=2)
    found = rank_environment(plan, RUN, given, interface="eth0")
    assert found["NCCL_SOCKET_IFNAME"] == given["NCCL_SOCKET_IFNAME"]
    assert found["GLOO_SOCKET_IFNAME"] == gloo


@pytest.mark.parametrize("name", ["PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"])
def test_what_the_user_says_of_the_allocator_and_of_threads_stays(name: str) -> None:
    given = {name: "max_split_size_mb:64", "OMP_NUM_THREADS": "3"}
    found = rank_environment(tiny_plan(), RUN, given)
    assert {key: found[key] for key in given} == given
    assert [key for key in found if key.endswith("ALLOC_CONF")] == [name]
