"""TRL 1.16's fused head as it allocates on a GPU: its Triton kernels fold tiles in place, so on shapes they do nothing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

SFT_OUTPUTS = ("log_probs", "entropy", "is_top1")
"""trl/trainer/sft_trainer.py."""
DPO_OUTPUTS = ("log_probs", "entropy", "mean_logits", "is_top1")
"""trl/trainer/dpo_trainer.py."""


def _in_place(*_: Any, **__: Any) -> None:
    """Triton kernels and cuBLAS write into what they are given."""


@contextmanager
def gpu_kernels_of_chunked_head() -> Iterator[None]:
    """Replace what TRL runs without Triton: torch operations with up to 29 bytes of temporaries per logit of a tile.

    Also compacts rows whose labels are masked, as TRL does where Triton runs; the trace takes every label as valid.
    """
    with (
        mock.patch("trl.kernels.chunked_logprob._forward_tile", _in_place),
        mock.patch("trl.kernels.chunked_logprob._backward_tile", _in_place),
        mock.patch("trl.kernels.chunked_logprob._addmm_fp32", _in_place),
        mock.patch("trl.trainer.utils._use_triton", return_value=True),
    ):
        yield


def add_chunked_head(model: Any, outputs: tuple[str, ...]) -> None:
    """Give `model` TRL's fused head; before PEFT wraps it."""
    from trl.trainer.utils import add_fused_lm_head

    add_fused_lm_head(model, outputs=outputs)
