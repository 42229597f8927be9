"""Probes: callbacks that look at a rank from inside, or end it, for tests. Each is named `kind` or `kind:arguments`."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import torch
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor
from transformers import TrainerCallback

from finetune_operator.api.constants import MANIFEST_FILE
from finetune_trainer import arguments as trainer_arguments
from finetune_trainer.measure import resident_memory
from finetune_trainer.storage import ObjectStorage
from finetune_trainer.testing_faults import FAULTS
from finetune_trainer.testing_trackers import Told


def _folder() -> Path:
    return Path(os.environ["FINETUNE_TEST_FOLDER"])


def _digest(tensors: list[torch.Tensor]) -> str:
    found = hashlib.sha256()
    for tensor in tensors:
        found.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def _offload_policies(model: Any) -> set[str]:
    """Names of the policies of FSDP2's units; CPU ranks hold everything in the same memory, so that no device tells."""
    units = [module._get_fsdp_state()._fsdp_param_group for module in model.modules() if isinstance(module, FSDPModule)]
    return {type(unit.offload_policy).__name__ for unit in units if unit is not None}


def _collective_seconds(device: torch.device) -> float | None:
    """After how long a collective call gives up, as the group of all ranks has it; None of one process."""
    everyone = torch.distributed.group.WORLD if torch.distributed.is_initialized() else None
    return None if everyone is None else float(everyone._get_backend(device).options._timeout.total_seconds())


class Shapes(TrainerCallback):
    """Writes what this rank holds at its first optimizer step: elements of parameters, gradients and optimizer state, and a digest of gradients."""

    def __init__(self, rank: int) -> None:
        self._rank = rank
        self._found: dict[str, Any] = {}
        self._accumulated = 0

    def on_substep_end(self, args: Any, state: Any, control: Any, model: Any = None, **others: Any) -> None:
        """Look at the gradients that wait for the step's other micro-batches."""
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        self._accumulated = sum(getattr(g, "_local_tensor", g).numel() for g in gradients)

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, model: Any = None, **others: Any) -> None:
        """Look at parameters and gradients before the step."""
        if self._found:
            return
        local = [getattr(p, "ds_tensor", getattr(p, "_local_tensor", p)) for p in model.parameters()]
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        self._found = {
            "model": type(model).__name__,
            "whole_parameters": sum(getattr(p, "ds_numel", p.numel()) for p in model.parameters()),
            "local_parameters": sum(p.numel() for p in local),
            "whole_gradients": sum(g.numel() for g in gradients),
            "local_gradients": sum(getattr(g, "_local_tensor", g).numel() for g in gradients),
            "gradients": _digest([getattr(g, "_local_tensor", g) for g in gradients]),
            "accumulated_gradients": self._accumulated,
            "offload": sorted(_offload_policies(model)),
            "dtypes": sorted({str(p.dtype) for p in model.parameters() if p.requires_grad}),
            "patience": _collective_seconds(args.device),
        }

    def on_step_end(self, args: Any, state: Any, control: Any, optimizer: Any = None, **others: Any) -> None:
        """Look at the optimizer's state after the step."""
        if state.global_step != 1:
            return
        inner = getattr(optimizer, "optimizer", optimizer)
        inner = getattr(inner, "optimizer", inner)  # DeepSpeed's own keeps torch's inside
        moments = [s["exp_avg"] for s in inner.state.values() if "exp_avg" in s]
        self._found["local_moments"] = sum(getattr(m, "_local_tensor", m).numel() for m in moments)
        (_folder() / f"shapes-{self._rank}.json").write_text(json.dumps(self._found))


class Loaded(TrainerCallback):
    """Writes by how much this rank's memory rose while the model was loaded, and a digest of every base weight that training starts with."""

    def __init__(self, rank: int) -> None:
        self._rank = rank
        self._start = resident_memory().peak
        self._loaded = 0

    def on_init_end(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        """Measure: the model is loaded, and not yet sharded."""
        self._loaded = resident_memory().peak - self._start

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **others: Any) -> None:
        """Look at the weights after they were sharded."""
        digests = {}
        for name, tensor in model.state_dict().items():
            whole = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
            if "lora_" not in name:
                digests[name.removeprefix("base_model.model.").replace(".base_layer.", ".")] = _digest([whole])
        found = {"loaded": self._loaded, "digests": digests}
        (_folder() / f"loaded-{self._rank}.json").write_text(json.dumps(found))


def digests_of_files(folder: Path, dtype: str) -> dict[str, str]:
    """Return the digest of every weight in a model's file, in a dtype; for `RankServer.call`."""
    from safetensors.torch import load_file

    weights = load_file(folder / "model.safetensors")
    return {name: _digest([tensor.to(getattr(torch, dtype))]) for name, tensor in weights.items()}


def wait_for_commit(step: str = "*") -> bool:
    """Return whether the run has committed a checkpoint; wait for it for ten seconds at most."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        if list(Path(os.environ["FINETUNE_TEST_OUTPUT"]).glob(f"checkpoints/*/{step}/*/{MANIFEST_FILE}")):
            return True
        time.sleep(0.02)
    return False


class Signal(TrainerCallback):
    """`KILL:<rank>:<step>`, `TERM:…` or `STOP:…`: ends or stops a rank after a step, a kill only after an earlier checkpoint was committed."""

    def __init__(self, rank: int, name: str, target: str, step: str) -> None:
        self._is_target = rank == int(target)
        self._number = signal.Signals[f"SIG{name}"]
        self._step = int(step)

    def on_step_end(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        """Send the signal."""
        if not self._is_target or state.global_step != self._step:
            return
        if self._number == signal.SIGKILL:
            wait_for_commit()
        os.kill(os.getpid(), self._number)


class MidStep(TrainerCallback):
    """`KILL-STEP:<rank>:<checkpoint>`: ends a rank between micro-batches of the first step in which that checkpoint is committed."""

    def __init__(self, rank: int, target: str, checkpoint: str) -> None:
        self._is_target = rank == int(target)
        self._checkpoint = int(checkpoint)

    def on_substep_end(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        """Die with gradients that no optimizer has seen. A checkpoint is committed at the end of the next step at the earliest."""
        if self._is_target and state.global_step > self._checkpoint and wait_for_commit(f"step-{self._checkpoint:08d}"):
            os.kill(os.getpid(), signal.SIGKILL)


class MidUpload(TrainerCallback):
    """`KILL-UPLOAD:<rank>:<count>`: ends a rank when it has sent the first file of its count-th checkpoint."""

    def __init__(self, rank: int, target: str, count: str) -> None:
        if rank == int(target):
            seen: list[str] = []
            for name in ("upload", "write"):
                if hasattr(ObjectStorage, name):
                    setattr(ObjectStorage, name, _dying(getattr(ObjectStorage, name), seen, int(count)))


def _dying(send: Callable[..., Any], seen: list[str], count: int) -> Callable[..., Any]:
    def send_and_die(storage: ObjectStorage, *arguments: Any) -> Any:
        stored = send(storage, *arguments)
        if storage.uri not in seen:
            seen.append(storage.uri)
        if len(seen) == count:
            os.kill(os.getpid(), signal.SIGKILL)
        return stored

    return send_and_die


class Saves(TrainerCallback):
    """Writes which files with tensors a save left on the local disk, for their upload."""

    def __init__(self, rank: int) -> None:
        self._rank = rank
        self._found: set[str] = set()

    def on_save(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        """Look at the folder in which checkpoints are staged."""
        kinds = (".pt", ".pth", ".bin", ".safetensors", ".distcp")
        self._found |= {path.name for path in Path(args.output_dir).rglob("*") if path.suffix in kinds}
        (_folder() / f"saves-{self._rank}.json").write_text(json.dumps({"tensors_on_disk": sorted(self._found)}))


class Poison(TrainerCallback):
    """`poison:<step>`: makes a weight NaN before a step."""

    def __init__(self, rank: int, step: str) -> None:
        self._step = int(step)

    def on_step_begin(self, args: Any, state: Any, control: Any, model: Any = None, **others: Any) -> None:
        """Spoil the first trained weight."""
        if state.global_step + 1 == self._step:
            with torch.no_grad():
                next(p for p in model.parameters() if p.requires_grad).fill_(float("nan"))


class Exhaust(TrainerCallback):
    """`exhaust:<rank>:<step>`: lets one rank's GPU run out of memory in the optimizer step."""

    def __init__(self, rank: int, target: str, step: str) -> None:
        self._is_target = rank == int(target)
        self._step = int(step)

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        """Raise what torch's allocator raises."""
        if self._is_target and state.global_step + 1 == self._step:
            raise torch.OutOfMemoryError(
                "CUDA out of memory. Tried to allocate 1.50 GiB. GPU 0 has a total capacity of 79 GiB"
            )


class Limit(TrainerCallback):
    """`limit:<rank>:<tokens>`: a GPU that is too small for a micro-batch of more tokens."""

    def __init__(self, rank: int, target: str, tokens: str) -> None:
        self._is_target = rank == int(target)
        self._tokens = int(tokens)

    def on_init_end(self, args: Any, state: Any, control: Any, model: Any = None, **others: Any) -> None:
        """Watch what the model is given."""
        if self._is_target:
            model.register_forward_pre_hook(self._check, with_kwargs=True)

    def _check(self, module: Any, arguments: Any, named: dict[str, Any]) -> None:
        if named["input_ids"].numel() > self._tokens:
            raise torch.OutOfMemoryError(
                "CUDA out of memory. Tried to allocate 512.00 MiB. GPU 0 has a total capacity of 79 GiB"
            )


class Raise(TrainerCallback):
    """`raise:<rank>:<step>:<kind>`: raises an error of a kind on one rank."""

    kinds: Final = {"bug": ValueError("the row: SECRET")}

    def __init__(self, rank: int, target: str, step: str, kind: str) -> None:
        self._is_target = rank == int(target)
        self._step, self._error = int(step), self.kinds[kind]

    def on_step_end(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        """Raise it."""
        if self._is_target and state.global_step == self._step:
            raise self._error


class SmallGroups(TrainerCallback):
    """`small-groups:<elements>`: so many elements are swapped together, so that a tiny model has several groups of them."""

    def __init__(self, rank: int, elements: str) -> None:
        vars(trainer_arguments)["ELEMENTS_TOGETHER"] = int(elements)


_PROBES: Final[dict[str, Callable[..., TrainerCallback]]] = {
    "shapes": Shapes,
    "loaded": Loaded,
    "KILL": lambda rank, *rest: Signal(rank, "KILL", *rest),
    "TERM": lambda rank, *rest: Signal(rank, "TERM", *rest),
    **FAULTS,
    "told": Told,
    "STOP": lambda rank, *rest: Signal(rank, "STOP", *rest),
    "KILL-STEP": MidStep,
    "KILL-UPLOAD": MidUpload,
    "saves": Saves,
    "poison": Poison,
    "exhaust": Exhaust,
    "limit": Limit,
    "raise": Raise,
    "small-groups": SmallGroups,
}


def make_probe(name: str, rank: int) -> TrainerCallback:
    """Return the probe of that name for a rank."""
    kind, *arguments = name.split(":")
    return _PROBES[kind](rank, *arguments)
