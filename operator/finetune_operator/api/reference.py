"""docs/reference/finetunejob.md, generated from the CRD, so that the page cannot lag behind the models.

python -m finetune_operator.api.reference --write docs/reference
python -m finetune_operator.api.reference --check docs/reference
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from finetune_operator.api.crd import custom_resource_definition

FILE_NAME: Final = "finetunejob.md"

_HEADER: Final = """# FineTuneJob: every field

Generated from `operator/finetune_operator/api` by `make crds`; do not edit. `kubectl explain ftj.spec` says the same. GiB is 2^30 bytes.
Fields without a default are optional unless marked required.
Conditions and reasons: [conditions.md](conditions.md); exit codes: [exit-codes.md](exit-codes.md).

"""


def render() -> str:
    """Return the page as Markdown."""
    schema = custom_resource_definition()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    parts = [_HEADER]
    for name in ("spec", "status"):
        part = schema["properties"][name]
        parts.append(f"## {name}\n\n{part['description']}\n\n| field | type | default | meaning |\n|---|---|---|---|\n")
        parts.extend(_row(path, field, required) for path, field, required in _fields(part, name))
        parts.append("\n")
    parts.append("## Rules\n\nWhat the API server and `finetune` refuse, in the words that they say:\n\n")
    parts.extend(f"- {message}\n" for message in _messages(schema))
    return "".join(parts)


def _fields(schema: dict[str, Any], path: str) -> Iterator[tuple[str, dict[str, Any], bool]]:
    for name, field in schema.get("properties", {}).items():
        place = f"{path}.{name}"
        yield place, field, name in schema.get("required", ())
        yield from _fields(field, place)
        if "items" in field:
            yield from _fields(field["items"], f"{place}[]")


def _row(path: str, field: dict[str, Any], required: bool) -> str:
    shown = "" if "properties" in field or "default" not in field else f"`{json.dumps(field['default'])}`"
    default = "required" if required and path.startswith("spec.") else shown
    description = field.get("description", "").replace("|", "\\|")
    return f"| `{path}` | {_type(field)} | {default} | {description} |\n"


def _type(field: dict[str, Any]) -> str:
    if "enum" in field:
        return " \\| ".join(f"`{value}`" for value in field["enum"])
    kind = str(field["type"])
    if kind == "array":
        return f"list of {_type(field['items'])}"
    if isinstance(field.get("additionalProperties"), dict):
        return "map of text"
    signs = {
        "minimum": ">" if field.get("exclusiveMinimum") else "≥",
        "maximum": "<" if field.get("exclusiveMaximum") else "≤",
    }
    bounds = [f"{sign} {field[key]}" for key, sign in signs.items() if key in field]
    names = {"string": "text", "number": "number", "integer": "integer", "boolean": "true or false", "object": "object"}
    return " ".join([names[kind], *bounds])


def _messages(schema: dict[str, Any]) -> Iterator[str]:
    for rule in schema.get("x-kubernetes-validations", ()):
        yield rule["message"]
    for field in schema.get("properties", {}).values():
        yield from _messages(field)
        if "items" in field:
            yield from _messages(field["items"])


def main() -> int:
    """Write or check the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    action = parser.add_mutually_exclusive_group(required=True)
    action.add_argument("--write", type=Path, metavar="FOLDER")
    action.add_argument("--check", type=Path, metavar="FOLDER")
    options = parser.parse_args()
    if options.write:
        (options.write / FILE_NAME).write_text(render())
    elif (path := options.check / FILE_NAME).read_text() != render():
        print(f"{path} differs from the API models; run: make crds", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
