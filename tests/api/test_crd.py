"""The generated CRD is what the models say, and small enough for every way of applying it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from finetune_operator.api.crd import FILE_NAME, custom_resource_definition, render

ROOT = Path(__file__).parents[2]
SCHEMA = custom_resource_definition()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]


def nodes(schema: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    yield path, schema
    for name, child in schema.get("properties", {}).items():
        yield from nodes(child, f"{path}.{name}")
    if "items" in schema:
        yield from nodes(schema["items"], f"{path}[]")


def test_the_file_in_crds_is_what_the_models_say() -> None:
    assert (ROOT / "crds" / FILE_NAME).read_text() == render(), "run: make crds"


def test_the_yaml_text_says_the_same_as_the_definition() -> None:
    assert yaml.safe_load(render()) == custom_resource_definition()


def test_the_file_stays_below_the_limit_of_client_side_apply() -> None:
    # kubectl keeps the object as JSON without spaces in an annotation, and the API server takes 256 KiB of those (apimachinery,
    # TotalAnnotationSizeLimitB).
    stored = json.dumps(custom_resource_definition(), separators=(",", ":"))
    assert len(stored.encode()) < 200_000


def test_every_field_of_the_spec_is_described() -> None:
    bare = [
        path
        for path, schema in nodes(SCHEMA["properties"]["spec"], "spec")
        if "[]" not in path and "description" not in schema
    ]
    assert bare == []


def test_the_schema_is_structural() -> None:
    for path, schema in nodes(SCHEMA):
        assert "$ref" not in schema, path
        assert "anyOf" not in schema, path
        assert "type" in schema, path
        assert not ("properties" in schema and "additionalProperties" in schema), path


def test_nested_defaults_are_filled_by_the_server() -> None:
    training = SCHEMA["properties"]["spec"]["properties"]["training"]
    assert training["default"]["globalBatchSize"] == 64
    assert training["properties"]["globalBatchSize"]["default"] == 64
