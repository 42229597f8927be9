"""How near to their data sheets GPUs, links and Python come: every constant of the roofline that is not counted from the model.

Those marked "judged" were chosen as round numbers so that no source of published runs is far off as a whole (docs/explanation/throughput.md
has the check with each source left out); the others come from the named source.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from finetune_operator.planner.gpu_table import Gpu, Link

ATTENTION_SHARE: Final = {7: 0.25, 8: 0.55, 9: 0.33, 10: 0.3, 12: 0.55}
"""Share of the peak that flash attention reaches with a causal mask, forward and backward together, by compute capability. 8: FlashAttention-2
on A100 (arXiv 2307.08691, figure 4: 150 to 190 of 312); 9: the same kernels on H100 (figure 7: 300 to 335 of 989). 10: assumed as 9. 12: as 8.
7: no flash attention, the memory-efficient kernel, assumed."""
ATTENTION_SHARE_OTHER: Final = 0.2
"""On other makers' GPUs. Assumed."""
FLOAT32_SHARE: Final = {7: 1 / 8, 8: 1 / 16, 9: 1 / 15, 10: 1 / 30, 12: 1 / 2}
"""float32 products (torch keeps TF32 off) relative to bfloat16, by compute capability: data sheets of V100, A100, H100, B200, RTX 5090."""
FLOAT32_SHARE_GRAPHICS: Final = 1 / 4
"""Compute capability 8.6 and 8.9: data sheets of A10 (31.2 of 125) and L40S (91.6 of 362)."""
CACHE_RELIEF: Final = {(8, 9): 1.5, (12, 0): 1.5}
"""How much faster than memory elementwise traffic goes where the second-level cache is large beside the memory's speed: 72 to 128 MB in front of
GDDR on Ada and Blackwell graphics boards (white papers). Judged on the published runs of L40S and RTX 4090, from three sources."""
HOST_LINK: Final = 12.0
"""GB/s between pinned host memory and one GPU while its neighbours use theirs as well; PCIe 4 x16 has 32, 25 in practice. Judged."""
HOST_MEMORY: Final = 20.0
"""GB/s at which one process steps an optimizer in host memory, with six cores per GPU. Judged: torch 2.13's fused AdamW reached 9.9 on two busy
cores, 0.35 billion parameters per second."""
LOCAL_DISK: Final = 3.0
"""GB/s of a node's local disk, reads and writes mixed, for all its processes together (offload nvme). Assumed: one NVMe disk on PCIe 4; several
of them striped are as many times faster."""
FLOAT8_SPEEDUP: Final = 1.5
"""Of linear layers: twice the rate, less scaling and casting (torchao's documentation of float8 training: 1.25 to 1.5 end to end). Judged."""


@dataclass(frozen=True)
class Rates:
    """Shares of what hardware could do, and seconds of what it waits for."""

    matmul: float = 0.88
    """Share of the largest products' speed (`Gpu.matmul`) that a model's own shapes reach. Judged."""
    bandwidth: float = 0.8
    """Share of memory bandwidth that elementwise kernels reach: 0.8 to 0.9 in stream benchmarks on A100 and H100. Judged."""
    dequantization: float = 0.4
    """The same of turning NF4 into bfloat16 (bitsandbytes' kernels, absmax first). Judged."""
    grouped_dequantization: float = 0.2
    """The same of GPTQ, which unpacks in several kernels. Judged."""
    kernel_seconds: float = 4e-6
    """Shortest time of a kernel on the GPU, from launch to launch (NVIDIA's figures for back-to-back launches: 2.5 to 5 µs)."""
    forward_launch_seconds: float = 25e-6
    """For Python's modules, PyTorch's dispatch and autograd's bookkeeping, per kernel of the forward pass. Judged; 10 to 30 µs are usual."""
    backward_launch_seconds: float = 12e-6
    """Per kernel of the backward pass, which C++ drives. Judged."""
    micro_seconds: float = 0.003
    """Of a trainer's own code per micro-batch: moving the batch, contexts, the loss. Judged."""
    step_seconds: float = 0.01
    """The same per step: schedule, logging, callbacks, the data loader's hand-over. Data preparation itself runs ahead in workers. Judged."""
    overlap: float = 0.6
    """Share of the computation behind which weights are gathered and gradients reduced. Judged."""
    collective_seconds: float = 40e-6
    """Latency of one collective (nccl-tests, small messages: 20 to 60 µs)."""
    unit_seconds: float = 300e-6
    """Python's hooks of FSDP and ZeRO-3 per layer and pass. Judged."""
    network: float = 0.85
    """Share of the network's speed (nccl-tests on InfiniBand and RoCE: 0.85 to 0.95)."""


DEFAULT_RATES: Final = Rates()

LINK_SHARE: Final = {Link.NVLINK: 0.8, Link.PCIE: 0.5, Link.HOST: 0.2}
"""Share of a link's speed that NCCL's collectives reach. NVLink: nccl-tests all-gather on 8 A100 about 235 of 300 GB/s, 8 H100 360 of 450. PCIe:
shared switches. Through host memory: two copies, 5 to 6 GB/s of 32 on GeForce cards."""


def attention_share(gpu: Gpu) -> float:
    """Return the share of the peak that attention reaches."""
    return (
        ATTENTION_SHARE_OTHER
        if gpu.capability is None
        else ATTENTION_SHARE.get(gpu.capability[0], ATTENTION_SHARE_OTHER)
    )


def float32_share(gpu: Gpu) -> float:
    """Return the speed of float32 products relative to bfloat16."""
    if gpu.capability is None:
        return FLOAT32_SHARE[7]
    if gpu.capability in ((8, 6), (8, 9)):
        return FLOAT32_SHARE_GRAPHICS
    return FLOAT32_SHARE.get(gpu.capability[0], FLOAT32_SHARE[7])


def cache_relief(gpu: Gpu) -> float:
    """Return how much faster elementwise traffic goes than memory alone would let it."""
    return CACHE_RELIEF.get(gpu.capability, 1.0) if gpu.capability is not None else 1.0
