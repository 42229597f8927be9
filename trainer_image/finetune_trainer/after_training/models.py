"""The models that are compared: the tuned one of the final checkpoint, then the base model, one after the other in the memory of one."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Final, Literal

from finetune_operator.api.plan import AttemptFile
from finetune_trainer.after_training.gpu_memory import fitting
from finetune_trainer.inputs import model_source
from finetune_trainer.modeling import load_adapter, load_base_model

Which = Literal["tuned", "base"]
_GPU_SHARE: Final = 0.8
"""Of what is free of a GPU, for weights; the rest is the batch's."""


def compared_models(
    attempt: AttemptFile, base: Path, export: Path, initial_adapter: Path | None = None
) -> Iterator[tuple[Which, Any]]:
    """Yield each model, ready to be asked; the one before is gone by then.

    An adapter is switched off for the base model; where the training went on with another result's, it gets that one's weights again. After qlora
    both stand on the 4-bit weights that the adapter was trained beside.
    """
    dtype = "float32" if attempt.spec.training.precision == "fp32" else "bfloat16"
    if attempt.spec.tuning.trains_base:
        for which, folder in (("tuned", export), ("base", base)):
            with _loading(attempt, which):
                model = _placed(load_base_model(attempt, folder, dtype=dtype))
            yield which, model.eval()  # type: ignore[misc] # mypy forgets the literals
            del model
            gc.collect()
        return
    from peft import PeftModel

    with _loading(attempt, "tuned"):
        model = _placed(load_base_model(attempt, base, dtype=dtype))
        adapted = PeftModel.from_pretrained(model, export).eval()
    yield "tuned", adapted
    if initial_adapter is not None:
        with _loading(attempt, "base"):
            load_adapter(adapted, initial_adapter)
        yield "base", adapted
        return
    with adapted.disable_adapter():
        yield "base", adapted


def _loading(attempt: AttemptFile, which: str) -> AbstractContextManager[None]:
    return fitting(
        f"model.uri: the {which} model of {model_source(attempt).uri}",
        "remove evaluation.metrics and evaluation.harness, or name larger GPUs at resources.gpuProduct",
    )


def _placed(model: Any) -> Any:
    """Return the model on the pod's GPUs: on one where it fits, else layer by layer over all of them and host memory."""
    import torch

    model.config.use_cache = True
    if not torch.cuda.is_available() or getattr(model, "is_loaded_in_4bit", False):
        return model
    from accelerate import dispatch_model, infer_auto_device_map

    held = sum(each.numel() * each.element_size() for each in model.parameters())
    if held < _GPU_SHARE * torch.cuda.mem_get_info(0)[0]:
        return model.to("cuda:0")
    kinds = list(model._no_split_modules or ())
    room: dict[int | str, int] = {
        number: int(_GPU_SHARE * torch.cuda.mem_get_info(number)[0]) for number in range(torch.cuda.device_count())
    }
    room["cpu"] = 2 * held
    devices = infer_auto_device_map(model, max_memory=room, no_split_module_classes=kinds)
    return dispatch_model(model, devices)
