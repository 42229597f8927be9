"""Sharded training on CPUs: bends accelerate's choice of device, so that the code paths of a GPU run with gloo.

With `use_cpu` accelerate calls a run MULTI_CPU and then drops `fsdp` and `deepspeed` without a word: the run is plain DDP with nearly the
same losses. So the ranks pretend to be a GPU run on device cpu. The attributes are private; accelerate is pinned exactly, and what is
expected is checked first. Whatever happens here, `wrapping.py` checks the wrapper that really came out.
"""

from __future__ import annotations

import inspect
import os

from finetune_operator.api.exit_codes import ExitCode
from finetune_trainer.failures import TrainerFailure


def install() -> None:
    """Make accelerate, transformers and torch take the CPU for a device of a distributed run. Call it before TrainingArguments are made."""
    import transformers.training_args
    from accelerate.state import DistributedType, PartialState
    from torch.distributed.fsdp import CPUOffloadPolicy

    expected = ["self", "cpu", "sagemaker_dp", "backend"]
    found = list(inspect.signature(PartialState._prepare_backend).parameters)
    if found != expected:
        raise _changed(f"accelerate's PartialState._prepare_backend takes {found} instead of {expected}")
    if not hasattr(transformers.training_args, "is_torch_bf16_gpu_available"):
        raise _changed("transformers' training_args has no is_torch_bf16_gpu_available")
    if CPUOffloadPolicy.__init__.__defaults__ not in ((True,), (False,)):
        raise _changed("torch's CPUOffloadPolicy has other defaults than pin_memory")

    os.environ["ACCELERATE_TORCH_DEVICE"] = "cpu"
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
    os.environ.pop("ACCELERATE_USE_CPU", None)

    def prepare_backend(
        self: object, cpu: bool = False, sagemaker_dp: bool = False, backend: str | None = None
    ) -> tuple[str, DistributedType]:
        return "gloo", DistributedType.MULTI_GPU

    PartialState._prepare_backend = prepare_backend
    transformers.training_args.is_torch_bf16_gpu_available = lambda: True
    CPUOffloadPolicy.__init__.__defaults__ = (False,)  # pinning memory needs a CUDA driver


def _changed(what: str) -> TrainerFailure:
    return TrainerFailure(
        ExitCode.BUG,
        f"several processes on CPUs need private parts of accelerate 1.15, and they have changed: {what}; install the pinned versions "
        "of pyproject.toml, or use resources.processes: 1",
    )
