"""The CustomResourceDefinition, generated from the API models: one source for Python, `kubectl explain` and the API server.

    python -m finetune_operator.api.crd --write crds     write crds/finetunejobs.yaml
    python -m finetune_operator.api.crd --check crds     exit 1 when the file differs from the models

Pydantic's JSON schema is turned into a structural schema: references resolved, nullable unions unwrapped, unknown fields pruned by the server
(`kubectl apply` reports them), each model's `rules` as x-kubernetes-validations.
A list or string without a bound makes the API server's cost estimate of CEL rules grow beyond its budget, so bounds on what rules look at are part
of the models.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import types
import typing
from itertools import accumulate
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel, TypeAdapter
from pydantic.fields import FieldInfo

from finetune_operator.api.constants import GROUP, KIND, MAXIMUM_NAME_LENGTH, PLURAL, SHORT_NAME, SINGULAR, VERSION
from finetune_operator.api.model import ApiModel
from finetune_operator.api.online import KL_WEIGHTS
from finetune_operator.api.spec import IMMUTABLE_AFTER_START, FineTuneJobSpec
from finetune_operator.api.status import FineTuneJobStatus

FILE_NAME: Final = f"{PLURAL}.yaml"

PRINT_COLUMNS: Final = (
    ("State", "string", ".status.state", "The conditions in one word."),
    ("Method", "string", ".spec.tuning.method", "Which parameters are trained."),
    ("GPUs", "integer", ".status.plan.gpus", "GPUs in all; 0 on CPUs."),
    ("Step", "string", ".status.progress.steps", "Optimizer steps finished / in all."),
    ("Loss", "string", ".status.progress.loss", "Training loss."),
    ("ETA", "string", ".status.progress.eta", "Estimated time left."),
    ("Age", "date", ".metadata.creationTimestamp", "Since the job was created."),
)

_KEPT_KEYWORDS: Final[tuple[str, ...]] = (
    "type", "format", "enum", "pattern", "minimum", "maximum", "minLength", "maxLength", "minItems", "maxItems",
    "x-kubernetes-list-type", "x-kubernetes-list-map-keys",
)  # fmt: skip


def custom_resource_definition() -> dict[str, Any]:
    """Return the CustomResourceDefinition of FineTuneJob as the API server takes it."""
    columns = [
        {"name": name, "type": kind, "jsonPath": path, "description": description}
        for name, kind, path, description in PRINT_COLUMNS
    ]
    schema = {
        "type": "object",
        "description": "A language-model fine-tuning job: what to train, on what, how, and where the result goes.",
        "required": ["spec"],
        "properties": {
            "apiVersion": {"type": "string"},
            "kind": {"type": "string"},
            "metadata": {"type": "object"},
            "spec": _object_schema(FineTuneJobSpec),
            "status": _object_schema(FineTuneJobStatus),
        },
        "x-kubernetes-validations": _root_rules(),
    }
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{PLURAL}.{GROUP}"},
        "spec": {
            "group": GROUP,
            "scope": "Namespaced",
            "names": {
                "kind": KIND,
                "listKind": f"{KIND}List",
                "plural": PLURAL,
                "singular": SINGULAR,
                "shortNames": [SHORT_NAME],
                "categories": ["all", "finetune"],
            },
            "versions": [
                {
                    "name": VERSION,
                    "served": True,
                    "storage": True,
                    "subresources": {"status": {}},
                    "additionalPrinterColumns": columns,
                    "schema": {"openAPIV3Schema": schema},
                }
            ],
        },
    }


def _in_bucket(field: str, rule: str) -> dict[str, str]:
    said = "file:// is for local runs (finetune run); in a cluster use a bucket: s3://, gs:// or az://"
    return {"rule": rule, "message": f"spec.{field}: {said}"}


def _root_rules() -> list[dict[str, str]]:
    rules = [
        {
            "rule": f"self.metadata.name.size() <= {MAXIMUM_NAME_LENGTH} && !self.metadata.name.contains('.')",
            "message": f"metadata.name: at most {MAXIMUM_NAME_LENGTH} characters and no dots, "
            "since pods' host names are made of it; shorten it",
        },
    ]
    rules += [_in_bucket(field, f"!self.spec.{field}.startsWith('file://')") for field in ("model.uri", "output.uri")]
    optional = (
        "checkpoint.uri",
        "checkpoint.resumeFrom",
        "dataset.uri",
        "dataset.evaluation.uri",
        "dataset.filters.semantic.uri",
    )
    for field in (*optional, "evaluation.entailment.uri", "evaluation.harness.uri", "training.distill.teacher.uri"):
        first, *further = field.split(".")
        paths = accumulate(further, "{}.{}".format, initial=first)
        absent = " || ".join(f"!has(self.spec.{path})" for path in paths)
        rules.append(_in_bucket(field, f"{absent} || !self.spec.{field}.startsWith('file://')"))
    rules.append(
        _in_bucket(
            "datasets",
            "!has(self.spec.datasets) || self.spec.datasets.all(d, !d.uri.startsWith('file://') && "
            "(!has(d.evaluation) || !d.evaluation.uri.startsWith('file://')) && "
            "(!has(d.filters) || !has(d.filters.semantic) || !d.filters.semantic.uri.startsWith('file://')))",
        )
    )
    for objective in KL_WEIGHTS:
        block = f"self.spec.training.{objective}"
        named = f"{block}.rewards.all(r, !has(r.model) || !r.model.uri.startsWith('file://'))"
        absent = f"!has(self.spec.training) || !has({block})"
        rules.append(_in_bucket(f"training.{objective}.rewards.model.uri", f"{absent} || {named}"))
    for field in IMMUTABLE_AFTER_START:
        same = f"self.spec.{field} == oldSelf.spec.{field}"
        if _is_optional(field):
            same = f"(has(self.spec.{field}) ? has(oldSelf.spec.{field}) && {same} : !has(oldSelf.spec.{field}))"
        rules.append(
            {
                "rule": f"!has(oldSelf.status) || !has(oldSelf.status.startTime) || {same}",
                "message": f"spec.{field} cannot change after the first attempt has started; delete the job and create it anew",
            }
        )
    return rules


def _is_optional(alias: str) -> bool:
    """Whether a field of the spec may be absent in what is stored: it is not required, and the CRD has no default for it."""
    field = next(each for name, each in FineTuneJobSpec.model_fields.items() if alias in (name, each.alias))
    return not field.is_required() and field.default is None and field.default_factory is None


def _object_schema(model: type[BaseModel]) -> dict[str, Any]:
    properties: dict[str, Any] = {}
    required: list[str] = []
    # The JSON schema of the whole model knows every constraint; types are walked beside it to find nested models.
    document = model.model_json_schema(by_alias=True, mode="validation")
    for name, field in model.model_fields.items():
        alias = field.alias or name
        properties[alias] = _field_schema(field, document["properties"][alias], document.get("$defs", {}))
        if field.is_required():
            required.append(alias)
    schema: dict[str, Any] = {"type": "object"}
    if model.__doc__:
        schema["description"] = " ".join(model.__doc__.split())
    if required:
        schema["required"] = required
    schema["properties"] = properties
    if issubclass(model, ApiModel) and model.rules:
        schema["x-kubernetes-validations"] = [{"rule": rule.cel, "message": rule.message} for rule in model.rules]
    return schema


def _field_schema(field: FieldInfo, document: dict[str, Any], definitions: dict[str, Any]) -> dict[str, Any]:
    nested = _model_in(field.annotation)
    if nested is not None and not _is_list(field.annotation):
        schema = _object_schema(nested)
    else:
        schema = _plain_schema(document, definitions)
        if nested is not None:
            schema["items"] = _object_schema(nested)
    if field.description:
        schema["description"] = field.description
    default = _default_of(field, nested)
    if default is not None:
        schema["default"] = default
    return schema


def _plain_schema(document: dict[str, Any], definitions: dict[str, Any]) -> dict[str, Any]:
    if "$ref" in document:
        referred = definitions[document["$ref"].rsplit("/", 1)[1]]
        return _plain_schema(referred, definitions)
    if "anyOf" in document:  # an optional value: absent, never null
        alternatives = [part for part in document["anyOf"] if part.get("type") != "null"]
        extra = {key: value for key, value in document.items() if key not in ("anyOf", "default", "title")}
        return _plain_schema({**alternatives[0], **extra}, definitions)
    schema: dict[str, Any] = {key: document[key] for key in _KEPT_KEYWORDS if key in document}
    if "const" in document:
        schema["enum"] = [document["const"]]
    for bound in ("Minimum", "Maximum"):
        if f"exclusive{bound}" in document:
            schema[bound.lower()] = document[f"exclusive{bound}"]
            schema[f"exclusive{bound}"] = True
    if schema.get("type") == "integer":
        schema["format"] = "int64"
    if "items" in document:
        schema["items"] = _plain_schema(document["items"], definitions)
    if isinstance(document.get("additionalProperties"), dict):
        schema["additionalProperties"] = _plain_schema(document["additionalProperties"], definitions)
    return schema


def _default_of(field: FieldInfo, nested: type[BaseModel] | None) -> Any:
    if field.is_required():
        return None
    default = field.get_default(call_default_factory=True)
    if default is None or (isinstance(default, list | tuple) and not default and nested is not None):
        return None
    if isinstance(default, BaseModel):
        # In full: the server evaluates the rules of a default before it fills in nested defaults ("no such key", 1.36).
        return default.model_dump(mode="json", by_alias=True, exclude_none=True)
    return TypeAdapter(type(default)).dump_python(default, mode="json")


def _model_in(annotation: Any) -> type[BaseModel] | None:
    """Return the model that a field holds, alone, optionally or in a list; None for plain values."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for part in typing.get_args(annotation) if (found := _model_in(part))), None)


def _is_list(annotation: Any) -> bool:
    origin = typing.get_origin(annotation)
    if origin in (typing.Union, types.UnionType):
        return any(_is_list(part) for part in typing.get_args(annotation))
    return origin in (list, tuple)


def render() -> str:
    """Return the CRD as YAML text. JSON is YAML; written by hand so that the operator image needs no YAML library."""
    header = "# Generated from operator/finetune_operator/api by `make crds`; do not edit.\n"
    return header + _yaml(custom_resource_definition(), 0)


def _yaml(value: Any, depth: int) -> str:
    pad = "  " * depth
    lines: list[str] = []
    if isinstance(value, dict):
        for key, item in value.items():
            if isinstance(item, dict | list) and item:
                lines.append(f"{pad}{_scalar(key)}:\n{_yaml(item, depth + 1)}")
            else:
                lines.append(f"{pad}{_scalar(key)}: {_scalar(item)}\n")
    else:
        for item in value:
            if isinstance(item, dict) and item:
                body = _yaml(item, depth + 1)
                lines.append(f"{pad}- {body[len(pad) + 2 :]}")
            else:
                lines.append(f"{pad}- {_scalar(item)}\n")
    return "".join(lines)


def _scalar(value: Any) -> str:
    reserved = ("true", "false", "null", "yes", "no", "on", "off", "y", "n")
    is_word = (
        isinstance(value, str) and re.fullmatch(r"[A-Za-z][A-Za-z0-9_-]*", value) and value.lower() not in reserved
    )
    return str(value) if is_word else json.dumps(value, ensure_ascii=False)


def main() -> int:
    """Write or check the generated file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    action = parser.add_mutually_exclusive_group(required=True)
    action.add_argument("--write", type=Path, metavar="FOLDER", action="append")
    action.add_argument("--check", type=Path, metavar="FOLDER", action="append")
    options = parser.parse_args()
    text = render()
    for folder in options.write or ():
        folder.mkdir(parents=True, exist_ok=True)
        (folder / FILE_NAME).write_text(text)
    for folder in options.check or ():
        path = folder / FILE_NAME
        if not path.exists() or path.read_text() != text:
            print(f"{path} differs from the API models; run: make crds", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
