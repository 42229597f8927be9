"""Who reads a model's weights on the host."""

from __future__ import annotations

from dataclasses import replace

import torch
from tests.memory.small_configs import DECODERS
from tests.memory.transformers_counts import loaded_config
from transformers import AutoModelForCausalLM

from finetune_operator.api.compatibility import Strategy
from finetune_operator.memory.architecture import Architecture, architecture_of
from finetune_operator.memory.families import REMOTE_CODE
from finetune_operator.memory.kinds import FLOAT32_MASTER, Tuning
from finetune_operator.memory.states import host_load_bytes
from finetune_operator.memory.states.load import STORED_BUFFERS
from finetune_operator.memory.workload import Workload

FSDP = Workload(
    Tuning.FULL,
    FLOAT32_MASTER,
    micro_batch=1,
    sequence_length=128,
    strategy=Strategy.FSDP,
    processes=8,
    efficient_loading=True,
)


def has_stored_buffers(name: str) -> bool:
    """Whether the trainer finds in the state dict what is no parameter (modeling.py, `empty_base_model`)."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(loaded_config(DECODERS[name]))
    return not {key for key, _ in model.named_parameters(remove_duplicate=False)}.issuperset(model.state_dict())


def test_the_types_with_stored_buffers_are_those_that_transformers_makes() -> None:
    own = [name for name in DECODERS if DECODERS[name]["model_type"] not in REMOTE_CODE]
    assert len(own) > 30
    found = {DECODERS[name]["model_type"] for name in own if has_stored_buffers(name)}
    assert found == STORED_BUFFERS


def test_every_rank_of_a_pod_reads_a_model_whose_buffers_cannot_be_sent() -> None:
    for model_type, readers in (("deepseek_v2", 1), ("deepseek_v3", 8), ("glm4_moe", 8)):
        config = next(config for config in DECODERS.values() if config["model_type"] == model_type)
        architecture = architecture_of(config)
        assert isinstance(architecture, Architecture)
        one = host_load_bytes(architecture, replace(FSDP, processes=1), 1)
        assert host_load_bytes(architecture, FSDP, 8) == readers * one
