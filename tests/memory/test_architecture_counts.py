"""Parameters per tensor class, adapted and quantised weights: the estimator's closed form against transformers, PEFT and the meta device."""

from __future__ import annotations

import json
from collections import Counter
from importlib.resources import files
from typing import Any

import pytest
from tests.memory.small_configs import DECODERS, ENCODERS
from tests.memory.transformers_counts import Counts, count, loaded_config, natural_head, quantised_by_bitsandbytes
from transformers.models.auto import modeling_auto

from finetune_operator.api.compatibility import Objective
from finetune_operator.api.model_types import ENCODERS as ENCODER_TYPES
from finetune_operator.api.model_types import NO_HEAD
from finetune_operator.memory.architecture import Architecture, Head, architecture_of, text_part
from finetune_operator.memory.families import ENCODERS as ENCODER_FAMILIES
from finetune_operator.memory.families import FAMILIES, REMOTE_CODE


def read(config: dict[str, Any], **options: Any) -> Architecture:
    found = architecture_of(config, **options)
    assert isinstance(found, Architecture), found
    return found


def counts_of(architecture: Architecture) -> Counts:
    by_class: Counter[str] = Counter()
    for tensor in architecture.tensors:
        by_class[tensor.kind.value] += tensor.total
    return Counts(
        by_class=dict(by_class),
        linear=architecture.linear_parameters,
        quantisable=architecture.quantisable_parameters,
        linear_names=frozenset(architecture.linear_names()),
    )


CASES = [
    *((name, DECODERS[name], Head.CAUSAL_LM) for name in DECODERS),
    *((name, ENCODERS[name], head) for name in ENCODERS for head in Head if head is not Head.CAUSAL_LM),
]


@pytest.mark.parametrize(("name", "config", "head"), CASES, ids=[f"{name}-{head}" for name, _, head in CASES])
def test_a_small_model_of_every_family_has_the_tensors_that_transformers_makes(
    name: str, config: dict[str, Any], head: Head
) -> None:
    loaded = loaded_config(config)
    expected = count(loaded, head)
    for source in (config, json.loads(json.dumps(loaded.to_dict(), default=str)), loaded.to_diff_dict()):
        found = read({**source, "model_type": config["model_type"]}, head=head)
        assert counts_of(found) == expected
        assert found.parameters == expected.total
        assert found.layers == loaded.num_hidden_layers


QUANTISED = [
    *("llama", "gpt2", "falcon like 40b", "falcon like rw", "phi", "opt with norms behind", "gpt_bigcode", "mpt"),
    *("mixtral", "qwen2_moe", "llama4", "gpt_oss", "deepseek_v2", "granitemoeshared"),
]
"""Every kind of linear module and of experts. (In a model whose last parameter is a layer's matrix, transformers leaves that one out.)"""


@pytest.mark.parametrize("name", QUANTISED)
def test_bitsandbytes_gets_the_weights_that_count_as_quantisable(name: str) -> None:
    config = DECODERS[name]
    assert quantised_by_bitsandbytes(loaded_config(config)) == read(config).quantisable_parameters


@pytest.mark.parametrize("head", [Head.NONE, Head.SEQUENCE_CLASSIFICATION, Head.TOKEN_CLASSIFICATION])
@pytest.mark.parametrize("name", ["llama", "gpt2", "mistral", "qwen3"])
def test_a_decoder_can_be_bare_or_classify(name: str, head: Head) -> None:
    config = DECODERS[name]
    expected = count(loaded_config(config, labels=5), head)
    assert counts_of(read(config, head=head, labels=5)) == expected


def test_the_types_without_a_head_of_classes_are_those_that_transformers_has_none_for() -> None:
    tables = {
        Objective.REWARD: modeling_auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
        Objective.CLASSIFICATION: modeling_auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
        Objective.TOKEN_CLASSIFICATION: modeling_auto.MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES,
        Objective.RERANKER: modeling_auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
        Objective.EMBEDDING: modeling_auto.MODEL_MAPPING_NAMES,
    }
    assert set(tables) == set(NO_HEAD)
    for objective, known in tables.items():
        assert NO_HEAD[objective] == (set(FAMILIES) - set(known)) | set(REMOTE_CODE)


def test_the_encoders_of_the_api_are_those_that_the_estimator_knows() -> None:
    assert frozenset(ENCODER_FAMILIES) == ENCODER_TYPES


def test_every_family_is_tried_against_transformers() -> None:
    tried = {config["model_type"] for config in (*DECODERS.values(), *ENCODERS.values())}
    assert tried | set(REMOTE_CODE) == set(FAMILIES)


def table() -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = json.loads(
        files("finetune_operator.memory").joinpath("known_architectures.json").read_text()
    )
    return found


def test_every_known_model_has_the_tensors_that_transformers_makes() -> None:
    wrong, compared = {}, 0
    for name, entry in table().items():
        config = text_part(entry["config"])
        model_type = str(config["model_type"])
        if model_type in REMOTE_CODE:
            continue
        expected = count(loaded_config(config), natural_head(model_type))
        found = counts_of(read(entry["config"]))
        compared += 1
        if (found, entry["parameters"]) != (expected, expected.by_class):
            wrong[name] = (found, expected, entry["parameters"])
    assert wrong == {}
    assert compared >= 40


def test_every_family_has_a_published_model_among_the_known_ones() -> None:
    types = {str(text_part(entry["config"])["model_type"]) for entry in table().values()}
    assert set(FAMILIES) - types == WITHOUT_A_KNOWN_MODEL


WITHOUT_A_KNOWN_MODEL = {"granitemoeshared", "internlm", "ministral", "ministral3"}
"""Small models of these types are compared all the same; of internlm, which brought its own code, nothing is."""
