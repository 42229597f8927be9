"""The whole model or adapter out of a sharded run, for the final checkpoint: with sharded state transformers saves only shards, silently."""

from __future__ import annotations

from collections.abc import Container
from pathlib import Path
from typing import Any, Final

from finetune_operator.api.exit_codes import ExitCode
from finetune_operator.api.manifest import FileEntry, Manifest
from finetune_trainer.failures import TrainerFailure
from finetune_trainer.script_pods import owner_of

EXPORT_FOLDER: Final = "export"
HISTORY_FILE: Final = "trainer_state.json"
ADAPTER_FILE: Final = "adapter_model.safetensors"
MODEL_FILES: Final = ("model.safetensors", "model.safetensors.index.json")


def export_sharded(model: Any, tokenizer: Any, target: Path, *, is_first: bool, held: Container[str] = ()) -> None:
    """Gather the trained weights of a model that FSDP2 or DeepSpeed spreads on rank 0, tensor by tensor, and save them. Collective.

    DeepSpeed's are the float32 masters: what the module holds is their rounded copy. `held` has the paths of files that were taken into host
    memory instead of being written.
    """
    from peft import PeftModel

    only_trained = isinstance(model, PeftModel)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    state: dict[str, Any] = {}
    gathered: dict[int, Any] = {}  # tied weights have two names
    for name, tensor in model.state_dict(keep_vars=True).items():
        if only_trained and name not in trained:
            continue
        if id(tensor) not in gathered:
            whole = _whole(tensor)
            gathered[id(tensor)] = whole.detach().cpu() if is_first else None
        if is_first:
            state[name] = gathered[id(tensor)]
    if is_first:
        model.save_pretrained(target, state_dict=state)
        tokenizer.save_pretrained(target)
        check_exported(target, adapter=only_trained, held=held)


def _whole(tensor: Any) -> Any:
    from torch.distributed.tensor import DTensor

    if isinstance(tensor, DTensor):
        return tensor.full_tensor()
    if hasattr(tensor, "ds_id") or hasattr(tensor, "_hp_mapping"):
        from deepspeed.utils import safe_get_full_fp32_param

        return safe_get_full_fp32_param(tensor)
    return tensor


def exported(checkpoint: Path) -> Path:
    """Return the folder of a checkpoint that holds the whole model or adapter."""
    export = checkpoint / EXPORT_FOLDER
    return export if export.is_dir() else checkpoint


def exported_files(manifest: Manifest) -> tuple[FileEntry, ...]:
    """Return the files of a checkpoint that publication needs: weights, tokenizer and history, no states and no shards."""
    export = tuple(entry for entry in manifest.files if owner_of(entry.name)[1].startswith(f"{EXPORT_FOLDER}/"))
    at_top = tuple(
        entry for entry in manifest.files if "/" not in entry.name and not entry.name.endswith((".pt", ".pth"))
    )
    history = tuple(entry for entry in at_top if entry.name == HISTORY_FILE)
    return (*export, *history) if export else at_top


def check_exported(folder: Path, *, adapter: bool, held: Container[str] = ()) -> None:
    """Raise when the weights are neither there nor held: a save that writes nothing says nothing."""
    names = (ADAPTER_FILE,) if adapter else MODEL_FILES
    if not any((folder / name).is_file() or f"{folder.name}/{name}" in held for name in names):
        found = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
        raise TrainerFailure(
            ExitCode.BUG, f"the final checkpoint has none of {', '.join(names)}, only {', '.join(found[:10])}"
        )
