"""What ranks and publications import and build on their way, had once by the process that tests fork them from.

A rank of a tiny model took 1.06 s of a processor; 0.3 s went to modules that libraries import when they are first used, 0.3 s to a table of
transformers, and 0.3 s to garbage collections that look at every object of torch.
"""

from __future__ import annotations

import gc
import importlib
import pkgutil
from typing import Final

import finetune_trainer

_PROGRAMS: Final = "__main__"
_OF_LIBRARIES: Final = (
    "deepspeed.module_inject.auto_ep_layer",
    "deepspeed.ops.op_builder.all_ops",
    "deepspeed.runtime.superoffload.superoffload_stage3",
    "deepspeed.runtime.zero.muon.muon_optimizer",
    "peft.tuners.lora.bnb",
    "torch.utils.tensorboard",
    "transformers.integrations.deepspeed",
    "transformers.models.auto.processing_auto",
    "transformers.models.llama.modeling_llama",
)
"""Modules that deepspeed 0.19.8, peft 0.21, torch 2.13 and transformers 5.23 import while they load a model or wrap it,
and what event files are written by."""


def import_everything() -> None:
    """Import all modules of the trainer, and what its libraries import late; hide all of it from garbage collections, here and in forks."""
    import deepspeed  # noqa: F401 - before transformers' part of it
    from transformers.conversion_mapping import get_checkpoint_conversion_mapping

    for module in pkgutil.walk_packages(finetune_trainer.__path__, f"{finetune_trainer.__name__}."):
        if not module.name.endswith(_PROGRAMS):
            importlib.import_module(module.name)
    for name in _OF_LIBRARIES:
        importlib.import_module(name)
    get_checkpoint_conversion_mapping("llama")  # it keeps the table of all types
    gc.collect()
    gc.freeze()
