"""Which model types keep packed rows apart: the table is what transformers does, each type tried on a small model."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.memory.small_configs import DECODERS
from transformers import AutoConfig, AutoModelForCausalLM

from finetune_operator.api.model_types import PACKING_ISOLATED, PACKING_LEAKS
from finetune_trainer.failures import TrainerFailure
from finetune_trainer.packed_batches import check_isolation, leak, real_tokens

BY_TYPE = {config["model_type"]: config for config in reversed(DECODERS.values())}


def small_model(config: dict[str, Any]) -> torch.nn.Module:
    torch.manual_seed(0)
    changes = {
        name: 2 for name in ("num_hidden_layers", "n_layer", "n_layers", "num_experts_per_tok") if name in config
    }
    if "num_experts" in config or "n_routed_experts" in config:
        changes["num_experts_per_tok"] = 2
    model: torch.nn.Module = AutoModelForCausalLM.from_config(AutoConfig.for_model(**{**config, **changes}))
    return model


@pytest.mark.parametrize("model_type", sorted(BY_TYPE))
def test_the_table_says_whose_packed_rows_see_each_other(model_type: str) -> None:
    model = small_model(BY_TYPE[model_type])
    leaked, own = leak(model, 500)
    if model_type in PACKING_LEAKS:
        with pytest.raises(TrainerFailure, match=r"training\.packing"):
            check_isolation(model, 500)
    else:
        assert leaked <= 1e-6 < own
        assert model_type in PACKING_ISOLATED


def test_the_table_has_no_type_that_was_not_tried() -> None:
    assert BY_TYPE.keys() == PACKING_ISOLATED | PACKING_LEAKS


def test_padding_is_not_counted_as_tokens() -> None:
    assert real_tokens(torch.tensor([[0, 1, 2, 0, 1, 0, 0], [0, 1, 0, 1, 0, 1, 2]])) == 5 + 7
