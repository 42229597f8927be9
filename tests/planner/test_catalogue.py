"""Node labels find the right GPU type, and the table's numbers are possible ones."""

from __future__ import annotations

from itertools import pairwise

import pytest

from finetune_operator.api.plan import GIB
from finetune_operator.planner.catalogue import CATALOGUE, UNKNOWN, catalogue_inventory, gpu_of
from finetune_operator.planner.gpu_table import Gpu, Link

ON_DEVICES = {
    # Names as nvidia-smi and GPU feature discovery (spaces become hyphens) or AMD's node labeller print them.
    "Tesla-T4": "Tesla-T4",
    "Tesla-V100-SXM2-32GB": "Tesla-V100-SXM2-32GB",
    "Tesla-V100-PCIE-16GB": "Tesla-V100-PCIE-16GB",
    "NVIDIA-A10": "NVIDIA-A10",
    "NVIDIA-A10G": "NVIDIA-A10G",
    "NVIDIA-A100-80GB-PCIe": "NVIDIA-A100-80GB-PCIe",
    "NVIDIA-A100-PCIE-40GB": "NVIDIA-A100-PCIE-40GB",
    "A100-SXM4-40GB": "NVIDIA-A100-SXM4-40GB",
    "NVIDIA A100-SXM4-80GB": "NVIDIA-A100-SXM4-80GB",
    "NVIDIA-RTX-A6000": "NVIDIA-RTX-A6000",
    "NVIDIA-RTX-6000-Ada-Generation": "NVIDIA-RTX-6000-Ada-Generation",
    "NVIDIA-RTX-PRO-6000-Blackwell-Workstation-Edition": "NVIDIA-RTX-PRO-6000-Blackwell-Server-Edition",
    "NVIDIA-GeForce-RTX-4090": "NVIDIA-GeForce-RTX-4090",
    "NVIDIA-L40": "NVIDIA-L40",
    "NVIDIA-L40S": "NVIDIA-L40S",
    "NVIDIA-L4": "NVIDIA-L4",
    "NVIDIA-H100-NVL": "NVIDIA-H100-NVL",
    "NVIDIA-H100-PCIe": "NVIDIA-H100-PCIe",
    "NVIDIA-H100-80GB-HBM3": "NVIDIA-H100-80GB-HBM3",
    "NVIDIA-H200-NVL": "NVIDIA-H200-NVL",
    "NVIDIA-GH200-144G-HBM3e": "NVIDIA-GH200-144G-HBM3e",
    "NVIDIA-GH200-480GB": "NVIDIA-GH200-480GB",
    "NVIDIA-B200": "NVIDIA-B200",
    "NVIDIA-GB200": "NVIDIA-GB200",
    "NVIDIA-B300-SXM6-AC": "NVIDIA-B300-SXM6-AC",
    "AMD_Instinct_MI300X_OAM": "AMD-Instinct-MI300X",
    "Tesla-T4-SHARED": "Tesla-T4",
}


@pytest.mark.parametrize("label", ON_DEVICES)
def test_a_label_finds_its_type(label: str) -> None:
    assert gpu_of(label).product == ON_DEVICES[label]


def test_every_row_finds_itself() -> None:
    assert [gpu_of(gpu.product) for gpu in CATALOGUE] == list(CATALOGUE)


@pytest.mark.parametrize("label", ["NVIDIA-GeForce-GTX-1080", "Quadro-RTX-8000", "", "NVIDIA-A1000"])
def test_a_type_that_the_table_lacks_is_unknown(label: str) -> None:
    assert gpu_of(label) is UNKNOWN


def test_a_mig_slice_has_its_share_of_the_whole_gpu() -> None:
    whole, part = gpu_of("NVIDIA-A100-SXM4-80GB"), gpu_of("NVIDIA-A100-SXM4-80GB-MIG-1g.10gb")
    assert part.tflops == pytest.approx(whole.tflops / 7)
    assert part.bandwidth == pytest.approx(whole.bandwidth / 8)
    assert part.memory_bytes == pytest.approx(10 * GIB)
    assert part.price == pytest.approx(whole.price / 7)
    assert gpu_of("NVIDIA-A30-MIG-2g.12gb").tflops == pytest.approx(gpu_of("NVIDIA-A30").tflops / 2)
    assert gpu_of("NVIDIA-H100-80GB-HBM3-MIG-7g.80gb").tflops == gpu_of("NVIDIA-H100-80GB-HBM3").tflops
    assert gpu_of("NVIDIA-H100-80GB-HBM3-MIG-1g.10gb+me").tflops == pytest.approx(989 / 7)
    assert gpu_of("Some-GPU-MIG-1g.10gb") is UNKNOWN


def test_bfloat16_begins_with_compute_capability_8() -> None:
    without = {gpu.product for gpu in CATALOGUE if not gpu.has_bf16}
    assert without == {gpu.product for gpu in CATALOGUE if gpu.product.startswith("Tesla-")}


@pytest.mark.parametrize("gpu", CATALOGUE, ids=lambda gpu: gpu.product)
def test_numbers_are_possible(gpu: Gpu) -> None:
    assert 10 * GIB < gpu.memory_bytes < 300 * GIB
    # Dense products per byte of bandwidth: 37 (H20) to 400 (L4) and nothing built so far is outside; catches a sparse figure and TB for GB.
    assert 35 <= gpu.tflops * 1000 / gpu.bandwidth <= 450
    assert 0.5 <= gpu.matmul <= 1.0
    assert 0 < gpu.price < 10
    assert gpu.wiring is Link.NVLINK or gpu.link <= 64
    assert gpu.capability is None or (7, 0) <= gpu.capability <= (12, 1)


def test_a_newer_generation_of_the_same_class_is_faster_and_dearer() -> None:
    ladder = ["Tesla-V100-SXM2-16GB", "NVIDIA-A100-SXM4-80GB", "NVIDIA-H100-80GB-HBM3", "NVIDIA-B200", "NVIDIA-GB300"]
    rows = [gpu_of(product) for product in ladder]
    for older, newer in pairwise(rows):
        assert older.tflops * older.matmul < newer.tflops * newer.matmul
        assert older.bandwidth <= newer.bandwidth
        assert older.price < newer.price


def test_the_assumed_inventory_has_only_types_that_pods_can_ask_for_as_nvidia_gpus() -> None:
    products = {nodes.product for nodes in catalogue_inventory().gpu_nodes}
    assert products == {gpu.product for gpu in CATALOGUE if not gpu.product.startswith(("AMD", "NVIDIA-GeForce"))}
    assert [nodes.product for nodes in catalogue_inventory(("NVIDIA-L4", "Some-GPU")).gpu_nodes] == ["NVIDIA-L4"]
