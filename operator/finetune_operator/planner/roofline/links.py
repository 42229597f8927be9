"""How long the processes of a step exchange weights and gradients, and how much of it the computation does not hide."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from finetune_operator.planner.gpu_table import Gpu
from finetune_operator.planner.roofline.rates import LINK_SHARE, Rates
from finetune_operator.planner.roofline.work import Work

NETWORK: Final = 12.5
"""GB/s of one node, one direction, where nobody says more: 100 Gbit/s Ethernet."""
COLLECTIVES_PER_UNIT: Final = 3
"""Two gathers and one reduction of every layer."""


@dataclass(frozen=True)
class Exchange:
    """Seconds of communication, as if nothing else happened."""

    micro: float
    """Per micro-batch."""
    step: float
    """Once per step."""


def exchange_of(work: Work, gpu: Gpu, per_node: int, network: float, rates: Rates) -> Exchange:
    """Return the seconds that `work` exchanges with `per_node` processes on every node.

    A ring over N processes moves (N − 1) / N of the bytes through its slowest link: the GPUs' own, or the node's share of the network, which
    all processes of a node use together once.
    """
    inside = gpu.link * LINK_SHARE[gpu.wiring] * 1e9
    parallel = work.tensor_parallel_bytes / inside
    if work.processes == 1:
        return Exchange(parallel, 0.0)
    link = inside if per_node >= work.processes else min(inside, network * rates.network * 1e9)
    share = (work.processes - 1) / work.processes
    micro = (work.gathered_bytes + work.scattered_bytes) * share / link
    if work.gathered_bytes:
        micro += (work.layers + 1) * COLLECTIVES_PER_UNIT * rates.collective_seconds
    return Exchange(micro + parallel, work.reduced_bytes * share / link)
