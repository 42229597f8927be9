"""Label and field selectors as the API server reads them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

_REQUIREMENT = re.compile(r"^(?P<key>\S+) (?P<operator>in|notin) \((?P<values>[^)]*)\)$")


def matches_labels(body: Mapping[str, Any], selector: str) -> bool:
    """Say whether an object's labels satisfy every requirement of `selector`."""
    labels: Mapping[str, str] = body["metadata"].get("labels") or {}
    return all(_holds(labels, part.strip()) for part in re.split(r",(?![^(]*\))", selector) if part.strip())


def _holds(labels: Mapping[str, str], requirement: str) -> bool:
    if found := _REQUIREMENT.match(requirement):
        values = {value.strip() for value in found["values"].split(",")}
        inside = labels.get(found["key"]) in values
        return inside if found["operator"] == "in" else not inside
    if "!=" in requirement:
        key, _, value = requirement.partition("!=")
        return labels.get(key.strip()) != value.strip()
    if "=" in requirement:
        key, _, value = requirement.replace("==", "=").partition("=")
        return labels.get(key.strip()) == value.strip()
    if requirement.startswith("!"):
        return requirement[1:].strip() not in labels
    return requirement in labels


def matches_fields(body: Mapping[str, Any], selector: str) -> bool:
    """Say whether an object's fields, such as `metadata.name` and `status.phase`, equal those of `selector`."""
    for requirement in filter(None, selector.split(",")):
        path, _, wanted = requirement.partition("=")
        found: Any = body
        for name in path.rstrip("!").split("."):
            found = found.get(name, "") if isinstance(found, Mapping) else ""
        if (str(found) == wanted) == path.endswith("!"):
            return False
    return True
