"""While a checkpoint is saved, the libraries' writing functions copy into host memory instead; the rest of the saving stays theirs.

Which tensors under which names belong into which file is decided by transformers, PEFT, accelerate and DeepSpeed, differently for each
strategy; what they have in common are the few functions that write tensors in the end. Those are replaced for the time of a save, for this
thread and for files of the checkpoint's folder. A file that is written in another way (a library has changed, a small JSON file) lies on the
local disk afterwards and is uploaded from there: slower, not wrong.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import torch
import torch.distributed.checkpoint as distributed_checkpoint
from torch.distributed.checkpoint.filesystem import FileSystemWriter, _StorageInfo
from torch.distributed.checkpoint.planner import SavePlan, SavePlanner, WriteItemType
from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions
from torch.distributed.checkpoint.storage import WriteResult
from torch.futures import Future

from finetune_trainer.staged_files import (
    SafetensorsFile,
    ShardsFile,
    StagedFile,
    TorchFile,
    length_alone,
    save_to_stream,
)

UNWANTED: Final = "training_args.bin"
"""A pickle of all arguments that nothing reads, with local paths in it."""


class HostCopies:
    """Copies of tensors in host memory, pinned where there is a GPU; the memory is used again for the same tensors' next copy."""

    def __init__(self) -> None:
        has_gpu = torch.cuda.is_available()
        options = StagingOptions(
            use_pinned_memory=has_gpu, use_shared_memory=False, use_async_staging=False, use_non_blocking_copy=has_gpu
        )
        self._stager = DefaultStager(options)

    def of(self, state: Any) -> Any:
        """Return a deep copy of any state, complete when this returns; it is overwritten by the next copy of the same tensors."""
        copied: Any = self._stager.stage({"state": state})
        return copied["state"]


class Capture:
    """The files of one checkpoint that were copied instead of written."""

    def __init__(self, folder: Path, copies: HostCopies) -> None:
        self.folder = folder
        self.files: dict[str, StagedFile] = {}
        self.training_is_over = False
        """Nothing changes any tensor any more: what a final export has gathered in host memory is not copied again."""
        self._copies = copies

    @contextlib.contextmanager
    def instead_of_writing(self) -> Iterator[None]:
        """Take what this thread writes into the folder meanwhile."""
        import peft.peft_model
        import safetensors.torch
        import transformers.modeling_utils

        owner = threading.get_ident()
        write_safetensors = safetensors.torch.save_file

        def save(obj: Any, f: Any, *arguments: Any, **options: Any) -> None:
            name = self._name_of(f) if threading.get_ident() == owner else None
            if name is None:
                save_to_stream(obj, f, *arguments, **options)
            elif Path(name).name != UNWANTED:
                self._keep(TorchFile(name, self._copies.of(obj)))

        def save_file(
            tensors: dict[str, torch.Tensor], filename: Any, metadata: Mapping[str, str] | None = None
        ) -> None:
            name = self._name_of(filename) if threading.get_ident() == owner else None
            if name is None:
                write_safetensors(tensors, filename, metadata=dict(metadata) if metadata else None)
            else:
                self._keep(SafetensorsFile(name, self._copied(tensors), dict(metadata or {})))

        def shards_writer(path: Any, *arguments: Any, **options: Any) -> FileSystemWriter:
            name = self._name_of(path) if threading.get_ident() == owner else None
            if name is None or arguments or options:
                return FileSystemWriter(path, *arguments, **options)
            return _ShardsWriter(path, name, self._copies, self._keep)

        with contextlib.ExitStack() as places:
            for module, function, replacement in (
                (torch, "save", save),
                (safetensors.torch, "save_file", save_file),
                (transformers.modeling_utils, "safe_save_file", save_file),
                (peft.peft_model, "safe_save_file", save_file),
                (distributed_checkpoint, "FileSystemWriter", shards_writer),
            ):
                if hasattr(module, function):
                    places.callback(setattr, module, function, getattr(module, function))
                    setattr(module, function, replacement)
            yield

    def _name_of(self, target: Any) -> str | None:
        """The path relative to the checkpoint's folder; None for a stream and for any other place."""
        if not isinstance(target, str | os.PathLike):
            return None
        path = Path(os.path.abspath(target))
        return str(path.relative_to(self.folder)) if path.is_relative_to(self.folder) else None

    def _copied(self, tensors: dict[str, torch.Tensor]) -> Mapping[str, torch.Tensor]:
        if self.training_is_over and all(tensor.device.type == "cpu" for tensor in tensors.values()):
            return dict(tensors)
        copied: Mapping[str, torch.Tensor] = self._copies.of(tensors)
        return copied

    def _keep(self, file: StagedFile) -> None:
        self.files[file.name] = file


class _ShardsWriter(FileSystemWriter):
    """Plans and writes the metadata like torch's own, together with the other ranks; a rank's shards are copied."""

    def __init__(self, path: Any, name: str, copies: HostCopies, keep: Callable[[StagedFile], None]) -> None:
        super().__init__(path)
        self._name, self._copies, self._keep = name, copies, keep

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> Future[list[WriteResult]]:
        """Copy this rank's items, and say where in its file each will be: their lengths are known beforehand."""
        file = f"{plan.storage_data.prefix}0.distcp"
        found = [planner.resolve_data(item) for item in plan.items]
        tensors = iter(self._copies.of([data for data in found if isinstance(data, torch.Tensor)]))
        items = [next(tensors) if isinstance(data, torch.Tensor) else data.getvalue() for data in found]
        results, offset = [], 0
        for item, data in zip(plan.items, items, strict=True):
            if isinstance(data, bytes) != (item.type is WriteItemType.BYTE_IO):
                raise TypeError(f"item {item.index} is {item.type}, and its data {type(data)}")
            length = length_alone(data)
            results.append(WriteResult(item.index, length, _StorageInfo(file, offset, length)))
            offset += length
        self._keep(ShardsFile(f"{self._name}/{file}", items))
        written: Future[list[WriteResult]] = Future()
        written.set_result(results)
        return written
