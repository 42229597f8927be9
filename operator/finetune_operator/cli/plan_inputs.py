"""The files that `finetune plan` takes: our own values as YAML or JSON, or the Kubernetes objects that kubectl prints."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from finetune_operator.api.constants import INSPECTION_FILE
from finetune_operator.api.history import History
from finetune_operator.api.inspection import InspectionReport
from finetune_operator.api.pods import Pod
from finetune_operator.cli.manifest_file import UnreadableManifest, reason_of
from finetune_operator.planner.inventory import Inventory
from finetune_operator.planner.nodes import node_inventory

Read = TypeVar("Read", bound=BaseModel)

_HISTORY_FILE = "history.json"


def read_file(path: Path, kind: type[Read]) -> Read:
    """Read a JSON or YAML file as `kind`.

    Raises:
        UnreadableManifest: the file is missing or does not hold such a thing.
    """
    return _validated(path, kind, _content(path, kind))


def read_inventory(path: Path, pod: Pod) -> Inventory:
    """Read an Inventory, or Node objects (`kubectl get nodes -o json`), of which the job with such pods sees what it may use.

    Raises:
        UnreadableManifest: the file is missing, or holds neither.
    """
    content = _content(path, Inventory)
    nodes = content.get("items") if isinstance(content, dict) else None
    if not isinstance(nodes, list):
        return _validated(path, Inventory, content)
    try:
        if not all(isinstance(node, dict) and isinstance(node.get("metadata"), dict) for node in nodes):
            raise ValueError("one has no metadata")
        return node_inventory(nodes, pod)
    except (ValueError, TypeError, AttributeError) as error:
        raise UnreadableManifest(
            f"{path}: its items are no Nodes: {error}; write what kubectl get nodes -o json prints"
        ) from error


def read_history(path: Path) -> History:
    """Read a History, or the ConfigMap in which the operator keeps it.

    Raises:
        UnreadableManifest: the file is missing, or holds neither.
    """
    content = _out_of_config_map(path, _content(path, History), _HISTORY_FILE)
    if not isinstance(content, dict) or "records" not in content:
        # A History ignores fields that it does not know, since its writer may be newer: any other file would read as an empty one.
        raise _unreadable(path, History, ValueError("it has no records"))
    return _validated(path, History, content)


def read_inspection(path: Path) -> InspectionReport:
    """Read an inspection report, or the ConfigMap in which the operator keeps it.

    Raises:
        UnreadableManifest: the file is missing, or holds neither.
    """
    content = _out_of_config_map(path, _content(path, InspectionReport), INSPECTION_FILE)
    return _validated(path, InspectionReport, content)


def _out_of_config_map(path: Path, content: Any, key: str) -> Any:
    """What stands under `key` of a ConfigMap; anything else as it is."""
    data = content.get("data") if isinstance(content, dict) else None
    if not isinstance(data, dict) or key not in data:
        return content
    try:
        return json.loads(data[key])
    except (ValueError, TypeError) as error:
        raise UnreadableManifest(f"{path}: data.{key} is no JSON: {error}") from error


def _content(path: Path, kind: type[BaseModel]) -> Any:
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise UnreadableManifest(f"{path}: cannot be read: {reason_of(error)}") from error
    try:
        # JSON first: it is what programs write, and PyYAML takes 100 times as long for it.
        return json.loads(text) if text.lstrip().startswith("{") else yaml.safe_load(text)
    except (ValueError, yaml.YAMLError) as error:
        raise _unreadable(path, kind, error) from error


def _validated(path: Path, kind: type[Read], content: Any) -> Read:
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise _unreadable(path, kind, ValueError(f"{where}: {first['msg']}")) from error


def _unreadable(path: Path, kind: type[BaseModel], problem: Exception) -> UnreadableManifest:
    fields = ", ".join(field.alias or name for name, field in kind.model_fields.items())
    return UnreadableManifest(f"{path}: is no {kind.__name__}: {problem}; its fields are {fields}")
