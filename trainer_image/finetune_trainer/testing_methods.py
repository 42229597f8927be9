"""What tests of methods ask of torch, PEFT and files of weights; for `RankServer.call`, whose process has imported them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from finetune_trainer.spectrum import signal_to_noise


def sizes_of_files(folder: Path) -> dict[str, int]:
    """Return the elements of every weight in a model's file."""
    from safetensors.torch import load_file

    return {name: tensor.numel() for name, tensor in load_file(folder / "model.safetensors").items()}


def largest_difference(one: Path, other: Path) -> float:
    """Return the largest difference between two files of the same weights, in float32, over the largest weight.

    Raises:
        KeyError: they have other names.
    """
    from safetensors.torch import load_file

    first, second = load_file(one), load_file(other)
    if first.keys() != second.keys():
        raise KeyError(sorted(first.keys() ^ second.keys()))
    largest = max(float(tensor.float().abs().max()) for tensor in first.values())
    return max(float((tensor.float() - second[name].float()).abs().max()) for name, tensor in first.items()) / largest


def ratios_of_random_matrices() -> list[tuple[float, float]]:
    """Return the ratio of some matrices twice: as Spectrum computes it, and from torch's own singular values."""
    source = torch.Generator().manual_seed(0)
    pairs = []
    for rows, columns in ((96, 256), (256, 96), (64, 64)):
        matrix = torch.randn(rows, columns, generator=source) + torch.randn(rows, 1, generator=source)
        values = torch.linalg.svdvals(matrix.double())
        low, high = (float(torch.quantile(values, share)) for share in (0.25, 0.75))
        is_noise = values <= (high - low) / 1.349 * (1 + (min(rows, columns) / max(rows, columns)) ** 0.5)
        expected = values[~is_noise].sum() / values[is_noise].sum() / values[0]
        pairs.append((signal_to_noise(matrix), float(expected)))
    return pairs


def ia3_targets_of_peft(model_types: list[str]) -> dict[str, Any]:
    """Return what PEFT itself scales in models of these types: all modules, and those of them whose inputs it scales."""
    from peft.utils import constants

    every = constants.TRANSFORMERS_MODELS_TO_IA3_TARGET_MODULES_MAPPING
    inputs = constants.TRANSFORMERS_MODELS_TO_IA3_FEEDFORWARD_MODULES_MAPPING
    return {name: [every[name], inputs[name]] for name in model_types}
