"""The operator by which DeepSpeed swaps states to local disks (`resources.offload: nvme`): loaded, tried and shown to DeepSpeed.

Before the model is loaded, so that a disk that cannot be used says so at once.
"""

from __future__ import annotations

import importlib.machinery
import importlib.util
import os
import shutil
import sys
from pathlib import Path
from typing import Any, Final

from finetune_operator.api.exit_codes import ExitCode
from finetune_operator.api.plan import GIB
from finetune_operator.api.swapping import DISK_BYTES
from finetune_trainer.disk_operator_build import MODULE, compile_operator, installed_file
from finetune_trainer.failures import TrainerFailure

_TRIED_ELEMENTS: Final = 2**18
_REMEDY: Final = "use resources.offload: optimizer, which keeps the same states in host memory"


def prepare_disk(folder: Path, rank: int) -> None:
    """Load the operator and write and read a file with it beside the folder in which this pod's states will be.

    Raises:
        TrainerFailure: There is no such operator, or the disk does not take direct reads and writes.
    """
    operator = load_operator()
    folder.parent.mkdir(parents=True, exist_ok=True)
    _try(operator, folder.with_name(f"{folder.name}-trial-{rank}"))


def check_space(folder: Path, parameters: int) -> None:
    """Refuse a disk without the space for the states of so many trained parameters, which are all on this pod's disk."""
    free, needed = shutil.disk_usage(folder.parent).free, DISK_BYTES * parameters
    if free < needed:
        raise TrainerFailure(
            ExitCode.DISK_FULL,
            f"resources.offload: nvme needs {needed / GIB:.2f} GiB for states on the pod's local disk, and {folder.parent} has {free / GIB:.2f} GiB "
            f"left; give the nodes more ephemeral storage, or {_REMEDY}",
        )


def load_operator() -> Any:
    """Return the operator as a module, which DeepSpeed takes for its own from then on: of the image, or compiled here."""
    try:
        operator = _of_image() if installed_file().exists() else compile_operator(_extensions() / MODULE)
    except (RuntimeError, OSError, ImportError) as error:
        raise TrainerFailure(
            ExitCode.BAD_SPEC,
            f"resources.offload: nvme: DeepSpeed's operator for local disks cannot be loaded or compiled ({_first_error(error)}); the trainer's "
            f"image has it, elsewhere install a C++ compiler and libaio-dev, or {_REMEDY}",
        ) from error
    from deepspeed.ops.op_builder.builder import OpBuilder

    # DeepSpeed 0.19.8 looks here before it compiles: for the operator, and for the module with its buffers (pin_memory_load.py).
    OpBuilder._loaded_ops["async_io"] = operator
    sys._deepspeed_pin_memory_op_module = operator  # type: ignore[attr-defined]
    return operator


def _first_error(error: Exception) -> str:
    """A compiler's output is hundreds of lines, and the first error is why."""
    lines = str(error).splitlines() or [type(error).__name__]
    return next((line for line in lines if "error:" in line), lines[0])


def _of_image() -> Any:
    loader = importlib.machinery.ExtensionFileLoader(MODULE, str(installed_file()))
    specification = importlib.util.spec_from_file_location(MODULE, installed_file(), loader=loader)
    if specification is None:
        raise ImportError(f"{installed_file()} is no module")
    module = importlib.util.module_from_spec(specification)
    loader.exec_module(module)
    return module


def _extensions() -> Path:
    """Return the folder in which torch compiles."""
    named = os.environ.get("TORCH_EXTENSIONS_DIR")
    return Path(named) if named else Path.home() / ".cache" / "torch_extensions"


def _try(operator: Any, file: Path) -> None:
    import torch

    handle = operator.aio_handle()
    written = handle.new_cpu_locked_tensor(_TRIED_ELEMENTS, torch.zeros(1))
    read = handle.new_cpu_locked_tensor(_TRIED_ELEMENTS, torch.zeros(1))
    torch.arange(_TRIED_ELEMENTS, out=written)
    read.zero_()
    try:
        done = (handle.sync_pwrite(written, str(file), 0), handle.sync_pread(read, str(file), 0))
        if done != (1, 1) or not torch.equal(read, written):
            raise TrainerFailure(
                ExitCode.BAD_SPEC,
                f"resources.offload: nvme: {file.parent} cannot be written and read directly (O_DIRECT; file systems in memory and some networks' "
                f"cannot); give the nodes local disks, or {_REMEDY}",
            )
    finally:
        file.unlink(missing_ok=True)
        handle.free_cpu_locked_tensor(written)
        handle.free_cpu_locked_tensor(read)
