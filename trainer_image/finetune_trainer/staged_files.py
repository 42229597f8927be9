"""Files of a checkpoint that exist in host memory only: copied while the step loop waits, serialised while they are sent.

The bytes are those that torch.save, safetensors and torch's distributed checkpoints would have written to disk, so that every reader of such
files reads these. Serialising later costs no second copy: each tensor goes from its copy to the sink.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Final, Protocol

import torch

save_to_stream: Final[Callable[..., None]] = torch.save
"""torch's own function, also while capture.py has another one in its place."""
_SAFETENSORS_TYPES: Final = {
    torch.float64: "F64",
    torch.int64: "I64",
    torch.float32: "F32",
    torch.int32: "I32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.int16: "I16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}

# Every byte is hashed by SHA-256 on its way, and compared before it is loaded. torch.load does not look at the CRC-32 of each record, which took
# half as long again as the hash (2.3 against 2.8 GiB/s on one core); unzip would warn.
torch.serialization.set_crc32_options(compute_crc32=False)


class Sink(Protocol):
    """Takes a file's bytes, in order."""

    def write(self, data: Any, /) -> int:
        """Take a bytes-like object, which the caller may change afterwards, and return its length."""
        ...

    def flush(self) -> None:
        """Called by torch.save at its end."""
        ...


class StagedFile(Protocol):
    """A file of a checkpoint in host memory."""

    @property
    def name(self) -> str:
        """Path relative to the checkpoint's folder."""
        ...

    @property
    def size(self) -> int:
        """Bytes of its tensors; the file has a little more."""
        ...

    def write_to(self, sink: Sink) -> None:
        """Serialise it."""
        ...


@dataclass(frozen=True)
class TorchFile:
    """What torch.save would have written."""

    name: str
    state: Any
    """Nothing in it may change until it is sent."""

    @property
    def size(self) -> int:
        """Bytes of its storages, each counted once."""
        found: dict[int, int] = {}
        for tensor in _tensors_in(self.state):
            storage = tensor.untyped_storage()
            found[storage.data_ptr()] = storage.nbytes()
        return sum(found.values())

    def write_to(self, sink: Sink) -> None:
        """Serialise it: torch hands each storage over as it lies in memory."""
        save_to_stream(self.state, sink)


@dataclass(frozen=True)
class SafetensorsFile:
    """What safetensors' save_file would have written (the format of safetensors 0.8: header length, header, tensors in the header's order)."""

    name: str
    tensors: Mapping[str, torch.Tensor]
    metadata: Mapping[str, str]

    @property
    def size(self) -> int:
        """Bytes of its tensors."""
        return sum(tensor.nbytes for tensor in self.tensors.values())

    def write_to(self, sink: Sink) -> None:
        """Serialise it."""
        # Larger elements first: so every tensor is aligned to its own elements.
        ordered = sorted(self.tensors.items(), key=lambda item: (-item[1].element_size(), item[0]))
        header: dict[str, Any] = {"__metadata__": dict(self.metadata)} if self.metadata else {}
        offset = 0
        for name, tensor in ordered:
            kind, end = _SAFETENSORS_TYPES[tensor.dtype], offset + tensor.nbytes
            header[name] = {"dtype": kind, "shape": list(tensor.shape), "data_offsets": [offset, end]}
            offset = end
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        sink.write(len(text).to_bytes(8, "little"))
        sink.write(text)
        for _, tensor in ordered:
            if tensor.nbytes:
                sink.write(tensor.contiguous().reshape(-1).view(torch.uint8).numpy())


@dataclass(frozen=True)
class ShardsFile:
    """One rank's file of a torch distributed checkpoint: each item as torch.save writes it alone, one after the other."""

    name: str
    items: Sequence[torch.Tensor | bytes]

    @property
    def size(self) -> int:
        """Bytes of its items."""
        return sum(item.nbytes if isinstance(item, torch.Tensor) else len(item) for item in self.items)

    def write_to(self, sink: Sink) -> None:
        """Serialise it."""
        for item in self.items:
            if isinstance(item, torch.Tensor):
                save_to_stream(_alone(item), sink)
            else:
                sink.write(item)


def length_alone(item: torch.Tensor | bytes) -> int:
    """Return how many bytes an item of a ShardsFile takes, without serialising it."""
    return len(item) if isinstance(item, bytes) else _saved_length(item.dtype, item.shape)


@cache
def _saved_length(dtype: torch.dtype, shape: torch.Size) -> int:
    counted = _Counter()
    # Without a checksum torch.save reads no element: memory of this size is only reserved.
    save_to_stream(torch.empty(shape, dtype=dtype), counted)
    return counted.length


def _alone(tensor: torch.Tensor) -> torch.Tensor:
    """torch.save writes a whole storage, also for a view of a part of it."""
    tensor = tensor.contiguous()
    return tensor if tensor.untyped_storage().nbytes() == tensor.nbytes else tensor.clone()


class _Counter(io.RawIOBase):
    def __init__(self) -> None:
        super().__init__()
        self.length = 0

    def write(self, data: Any, /) -> int:
        self.length += len(data)
        return len(data)


def _tensors_in(state: Any) -> list[torch.Tensor]:
    return [leaf for leaf in torch.utils._pytree.tree_leaves(state) if isinstance(leaf, torch.Tensor)]
