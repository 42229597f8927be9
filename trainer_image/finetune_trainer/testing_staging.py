"""Cases of staging that need torch; for `RankServer.call` (testing_ranks.py)."""

from __future__ import annotations

import importlib
import io
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from finetune_trainer.capture import Capture, HostCopies
from finetune_trainer.staged_files import SafetensorsFile, ShardsFile, StagedFile, TorchFile, length_alone


def formats_case(folder: Path) -> dict[str, Any]:
    """Serialise one state in every format and read it with its library."""
    tied = torch.randn(5, 3)
    state = {
        "matrix": torch.arange(12.0).reshape(3, 4),
        "transposed": torch.arange(12.0).reshape(3, 4).T,
        "half": torch.randn(7).bfloat16(),
        "scalar": torch.tensor(3),
        "none": torch.empty(0, 4),
        "flags": torch.tensor([True, False, True]),
        "row": tied[2],
    }
    whole = {"tensors": state, "also": state["matrix"], "step": 4}
    expected = io.BytesIO()
    torch.save(whole, expected)
    safetensors_file = _bytes(SafetensorsFile("a", state, {"format": "pt"}))
    path = folder / "a.safetensors"
    path.write_bytes(safetensors_file)
    with safetensors.safe_open(path, "pt") as opened:
        metadata = opened.metadata()
    items = list(state.values())
    shards = _bytes(ShardsFile("b", items))
    lengths = [length_alone(item) for item in items]
    starts = [sum(lengths[:number]) for number in range(len(items))]
    loaded = [
        torch.load(io.BytesIO(shards[a : a + n]), weights_only=True) for a, n in zip(starts, lengths, strict=True)
    ]
    return {
        "torch": "as torch.save writes it" if _bytes(TorchFile("c", whole)) == expected.getvalue() else "otherwise",
        "safetensors": {"read": _equal(safetensors.torch.load(safetensors_file), state), "metadata": metadata},
        "shards": {
            "read": _equal(dict(zip(state, loaded, strict=True)), state),
            "lengths": sum(lengths) == len(shards),
        },
    }


def copies_case() -> dict[str, bool]:
    """Copy a state, change it as an optimizer does, and copy it again."""
    weight = torch.ones(1000)
    groups = [{"lr": 0.1}]
    state = {"weight": weight, "view": weight[:10], "groups": groups}
    copies = HostCopies()
    first = copies.of(state)
    address = first["weight"].data_ptr()
    weight.add_(1)
    groups[0]["lr"] = 0.2
    kept = bool((first["weight"] == 1).all()) and first["groups"] == [{"lr": 0.1}]
    second = copies.of(state)
    return {
        "kept": kept,
        "same_memory": second["weight"].data_ptr() == address and bool((second["view"] == 2).all()),
        "shared_stays_shared": second["view"].data_ptr() == second["weight"].data_ptr(),
    }


def capture_case(folder: Path) -> dict[str, Any]:
    """Write inside and outside of a checkpoint's folder."""
    checkpoint = folder / "checkpoint"
    checkpoint.mkdir()
    module = importlib.import_module("torch.distributed.checkpoint")
    before = (torch.save, module.FileSystemWriter)
    capture = Capture(checkpoint, HostCopies())
    with capture.instead_of_writing():
        torch.save({"a": torch.ones(2)}, checkpoint / "inside.pt")
        torch.save({"a": torch.ones(2)}, folder / "outside.pt")
        torch.save("arguments", checkpoint / "training_args.bin")
    return {
        "taken": sorted(capture.files),
        "on_disk": sorted(path.name for path in folder.rglob("*") if path.is_file()),
        "restored": before == (torch.save, module.FileSystemWriter),
    }


def _bytes(file: StagedFile) -> bytes:
    buffer = io.BytesIO()
    file.write_to(buffer)
    return buffer.getvalue()


def _equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(
        one[name].dtype == other[name].dtype and torch.equal(one[name], other[name]) for name in one
    )
