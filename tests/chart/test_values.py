"""values.yaml, its schema and its documentation say the same, and no value goes undocumented."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "charts" / "finetune-operator"
VALUES: dict[str, Any] = yaml.safe_load((CHART / "values.yaml").read_text())
SCHEMA: dict[str, Any] = json.loads((CHART / "values.schema.json").read_text())


def comments() -> dict[str, str]:
    """Return the comment above each value, by the value's path."""
    found: dict[str, str] = {}
    path: list[str] = []
    pending: list[str] = []
    for line in (CHART / "values.yaml").read_text().splitlines():
        text = line.strip()
        if text.startswith("#"):
            pending.append(text[1:].strip())
        elif match := re.match(r"^( *)([A-Za-z_]+):", line):
            path = [*path[: len(match[1]) // 2], match[2]]
            found[".".join(path)] = " ".join(pending)
            pending = []
        else:
            pending = []
    return found


def leaves(schema: dict[str, Any], value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    """Yield the values that a user sets: a map whose keys the schema leaves open is one value."""
    if schema.get("properties") and value:
        for name, child in value.items():
            yield from leaves(schema["properties"][name], child, (*path, name))
    else:
        yield ".".join(path), value


def problems(change: dict[str, Any]) -> list[str]:
    return [error.message for error in jsonschema.Draft7Validator(SCHEMA).iter_errors(change)]


def test_the_schema_is_valid_and_accepts_the_defaults() -> None:
    jsonschema.Draft7Validator.check_schema(SCHEMA)
    assert problems(VALUES) == []


def closed_objects(schema: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    if "properties" in schema:
        yield path, schema
        for name, child in schema["properties"].items():
            yield from closed_objects(child, f"{path}.{name}")


def test_every_object_of_the_schema_refuses_unknown_names() -> None:
    assert [path for path, schema in closed_objects(SCHEMA) if schema.get("additionalProperties") is not False] == []


def test_every_value_has_a_comment_and_the_schema_repeats_it() -> None:
    described = comments()
    for path, _ in leaves(SCHEMA, VALUES):
        schema = SCHEMA
        for name in path.split("."):
            schema = schema["properties"][name]
        assert described[path], f"{path} has no comment in values.yaml"
        assert schema.get("description") == described[path], f"{path}: values.schema.json describes it otherwise"


def test_the_reference_lists_every_value_with_default_and_comment() -> None:
    described = comments()
    wanted = [f"| `{path}` | `{json.dumps(value)}` | {described[path]} |" for path, value in leaves(SCHEMA, VALUES)]
    page = (ROOT / "docs" / "reference" / "chart.md").read_text()
    assert [line for line in page.splitlines() if line.startswith("| `")] == wanted


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"replica": 2}, "'replica' was unexpected"),
        ({"operator": {"image": {"name": "x"}}}, "'name' was unexpected"),
        ({"replicas": 0}, "0 is less than the minimum of 1"),
        ({"images": {"pullPolicy": "always"}}, "'always' is not one of"),
        ({"operator": {"image": {"digest": "latest"}}}, "'latest' does not match"),
        ({"watchNamespaces": "team"}, "'team' is not of type 'array'"),
        ({"operator": {"workers": 65}}, "65 is greater than the maximum of 64"),
        ({"planner": {"prices": {"perGpuHour": {"NVIDIA-L4": 0}}}}, "0 is less than or equal to the minimum of 0"),
        ({"tls": {"certManager": {"issuerRef": {"kind": "Authority"}}}}, "'Authority' is not one of"),
    ],
    ids=lambda value: json.dumps(value) if isinstance(value, dict) else "",
)
def test_a_value_that_cannot_work_is_refused_before_anything_is_installed(change: dict[str, Any], named: str) -> None:
    (problem,) = problems(change)
    assert named in problem


def test_this_chart_can_be_part_of_another_one() -> None:
    assert problems({**VALUES, "global": {"anything": 1}, "enabled": True}) == []
