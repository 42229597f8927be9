"""Server-side apply as the API server does it, on plain JSON: who owns which field, what merges, what is removed.

The rules are those of structured-merge-diff, as far as the objects of this operator reach. A field path is a tuple of
`f:<name>` (a field), `k:<keys>` (an item of a list-map) and `v:<value>` (an item of a set), as in `managedFields`.
`tests/controller/test_server_side_apply.py` shows the rules one by one; the cluster tests compare them with the real server.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Final

Body = dict[str, Any]
FieldPath = tuple[str, ...]
FieldSet = frozenset[FieldPath]
ManagerKey = tuple[str, str, str]
"""Name of the manager, operation (Apply or Update), subresource."""
Managers = dict[ManagerKey, FieldSet]

_ABSENT: Final = object()


class ListType(Enum):
    """How the items of a list are told apart."""

    ATOMIC = "atomic"
    SET = "set"
    MAP = "map"


@dataclass(frozen=True)
class ListRule:
    """The type of one list; `keys` and their `defaults` for a map."""

    type: ListType
    keys: tuple[str, ...] = ()
    defaults: Mapping[str, Any] = field(default_factory=dict)


ATOMIC: Final = ListRule(ListType.ATOMIC)
_TCP: Final = {"protocol": "TCP"}

# By the names of the last two fields, then of the last one. A batch Job's own conditions are atomic, a pod's are not.
_BUILT_IN_LISTS: Final[Mapping[tuple[str, ...], ListRule]] = {
    ("ownerReferences",): ListRule(ListType.MAP, ("uid",)),
    ("finalizers",): ListRule(ListType.SET),
    ("containers",): ListRule(ListType.MAP, ("name",)),
    ("initContainers",): ListRule(ListType.MAP, ("name",)),
    ("env",): ListRule(ListType.MAP, ("name",)),
    ("volumes",): ListRule(ListType.MAP, ("name",)),
    ("volumeMounts",): ListRule(ListType.MAP, ("mountPath",)),
    ("imagePullSecrets",): ListRule(ListType.MAP, ("name",)),
    ("hostAliases",): ListRule(ListType.MAP, ("ip",)),
    ("topologySpreadConstraints",): ListRule(ListType.MAP, ("topologyKey", "whenUnsatisfiable")),
    ("containers", "ports"): ListRule(ListType.MAP, ("containerPort", "protocol"), _TCP),
    ("spec", "ports"): ListRule(ListType.MAP, ("port", "protocol"), _TCP),
}
_ATOMIC_MAPS: Final = frozenset(
    {"selector", "nodeSelector", "labelSelector", "fieldRef", "resourceFieldRef", "configMapKeyRef", "secretKeyRef"}
)


class Schema:
    """What decides how a kind's lists and maps merge: built-in rules, or the CRD's `x-kubernetes-*` extensions."""

    def __init__(self, kind: str, crd_schema: Mapping[str, Any] | None = None) -> None:
        self._kind = kind
        self._crd_schema = crd_schema

    def list_rule(self, names: tuple[str, ...]) -> ListRule:
        """Return the rule of the list at these field names."""
        if names[:1] == ("metadata",) or self._crd_schema is None:
            if names[-1:] == ("conditions",) and self._kind != "Job":
                return ListRule(ListType.MAP, ("type",))
            return _BUILT_IN_LISTS.get(names[-2:]) or _BUILT_IN_LISTS.get(names[-1:]) or ATOMIC
        found = self._find(names)
        rule = ListType(found.get("x-kubernetes-list-type", "atomic"))
        return ListRule(rule, tuple(found.get("x-kubernetes-list-map-keys", ())))

    def is_atomic_map(self, names: tuple[str, ...]) -> bool:
        """Say whether the map at these field names is replaced as a whole."""
        if names[:1] == ("metadata",):
            return False
        if self._crd_schema is None:
            return bool(names) and names[-1] in _ATOMIC_MAPS
        return bool(self._find(names).get("x-kubernetes-map-type") == "atomic")

    def _find(self, names: tuple[str, ...]) -> Mapping[str, Any]:
        found: Mapping[str, Any] = self._crd_schema or {}
        for name in names:
            found = found.get("items", found)
            properties = found.get("properties", {})
            found = properties[name] if name in properties else found.get("additionalProperties", {})
            if not isinstance(found, Mapping):
                return {}
        return found


def item_element(rule: ListRule, item: Any) -> str:
    """Return the path element of one item of a set or a list-map."""
    if rule.type is ListType.SET:
        return "v:" + json.dumps(item)
    return "k:" + json.dumps({key: item.get(key, rule.defaults.get(key)) for key in rule.keys}, sort_keys=True)


def leaves(
    schema: Schema, value: Any, path: FieldPath = (), names: tuple[str, ...] = ()
) -> Iterator[tuple[FieldPath, Any]]:
    """Yield every owned path of `value` with its value; an item of a list-map yields itself too, with no value."""
    if isinstance(value, dict) and value and not schema.is_atomic_map(names):
        for name, child in value.items():
            yield from leaves(schema, child, (*path, f"f:{name}"), (*names, name))
    elif isinstance(value, list) and (rule := schema.list_rule(names)).type is not ListType.ATOMIC:
        for item in value:
            item_path = (*path, item_element(rule, item))
            yield item_path, None
            if rule.type is ListType.MAP:
                yield from leaves(schema, item, item_path, names)
    else:
        yield path, value


def field_set(schema: Schema, value: Any) -> FieldSet:
    """Return the paths that an applied object names; its identity and system fields are nobody's."""
    return frozenset(path for path, _ in leaves(schema, value) if not _is_system(path))


def _is_system(path: FieldPath) -> bool:
    if path[:1] in ((), ("f:apiVersion",), ("f:kind",)):
        return True
    return path[0] == "f:metadata" and (len(path) == 1 or path[1] not in _OWNED_METADATA)


_OWNED_METADATA: Final = frozenset({"f:labels", "f:annotations", "f:ownerReferences", "f:finalizers"})


def merge(schema: Schema, live: Any, applied: Any, names: tuple[str, ...] = ()) -> Any:
    """Return `live` with `applied` laid over it."""
    if isinstance(live, dict) and isinstance(applied, dict) and not schema.is_atomic_map(names):
        merged = dict(live)
        for name, value in applied.items():
            merged[name] = merge(schema, live.get(name, _ABSENT), value, (*names, name))
        return merged
    if isinstance(live, list) and isinstance(applied, list):
        rule = schema.list_rule(names)
        if rule.type is not ListType.ATOMIC:
            items = {item_element(rule, item): item for item in live}
            for item in applied:
                element = item_element(rule, item)
                items[element] = merge(schema, items.get(element, _ABSENT), item, names)
            return list(items.values())
    return deepcopy(applied)


def remove(
    schema: Schema,
    value: Any,
    doomed: FieldSet,
    named: FieldSet,
    path: FieldPath = (),
    names: tuple[str, ...] = (),
) -> Any:
    """Return `value` without the doomed paths; what becomes empty by that goes too, unless it is named as empty."""
    if not any(target[: len(path)] == path for target in doomed):
        return value
    if isinstance(value, dict) and not schema.is_atomic_map(names):
        kept: Any = {}
        for name, child in value.items():
            child_path = (*path, f"f:{name}")
            if child_path in doomed:
                continue
            rest = remove(schema, child, doomed, named, child_path, (*names, name))
            if rest is child or child_path in named or rest not in ({}, []):
                kept[name] = rest
        return kept
    if isinstance(value, list) and (rule := schema.list_rule(names)).type is not ListType.ATOMIC:
        kept = []
        for item in value:
            item_path = (*path, item_element(rule, item))
            if item_path not in doomed:
                kept.append(remove(schema, item, doomed, named, item_path, names))
        return kept
    return value


@dataclass(frozen=True)
class Applied:
    """The object and its managers after an apply, and the fields that belonged to others with another value."""

    body: Body
    managers: Managers
    conflicts: tuple[tuple[str, FieldPath], ...]


def apply(schema: Schema, live: Body, managers: Managers, config: Body, who: ManagerKey) -> Applied:
    """Lay `config` over `live` as `who`, take over what conflicts, remove what `who` alone owned and names no more."""
    named = field_set(schema, config)
    before = dict(leaves(schema, live))
    changed = {path for path, value in leaves(schema, config) if path in named and before.get(path, _ABSENT) != value}
    conflicts = tuple(
        (key[0], path) for key, owned in managers.items() if key != who for path in sorted(changed & owned)
    )
    lost = {path for _, path in conflicts}
    after: Managers = {key: owned - lost for key, owned in managers.items() if key != who}
    owned_now = named.union(*after.values())
    dropped = managers.get(who, frozenset()) - owned_now
    # An item of a list-map goes only when nobody owns anything in it.
    doomed = frozenset(path for path in dropped if not any(other[: len(path)] == path for other in owned_now))
    body = remove(schema, merge(schema, live, config), doomed, owned_now)
    after[who] = named
    return Applied(body, _existing(schema, body, after), conflicts)


def update(schema: Schema, live: Body, managers: Managers, body: Body, who: ManagerKey) -> Managers:
    """Return the managers after `who` replaced `live` by `body`: changed fields are its own, vanished ones nobody's."""
    before = dict(leaves(schema, live))
    changed = frozenset(
        path for path, value in leaves(schema, body) if not _is_system(path) and before.get(path, _ABSENT) != value
    )
    after = {key: owned - changed for key, owned in managers.items()}
    after[who] = after.get(who, frozenset()) | changed
    return _existing(schema, body, after)


def _existing(schema: Schema, body: Body, managers: Managers) -> Managers:
    exists = frozenset(path for path, _ in leaves(schema, body))
    kept = {key: owned & exists for key, owned in managers.items()}
    return {key: owned for key, owned in kept.items() if owned}


def fields_v1(owned: FieldSet) -> Body:
    """Return a field set as `managedFields[].fieldsV1` writes it."""
    tree: Body = {}
    for path in sorted(owned):
        node = tree
        for element in path:
            node = node.setdefault(element, {})
        if any(other[: len(path)] == path and other != path for other in owned):
            node["."] = {}
    return tree


def managed_fields(api_version: str, managers: Managers) -> list[Body]:
    """Return `metadata.managedFields`."""
    entries = []
    for (name, operation, subresource), owned in managers.items():
        entry = {"manager": name, "operation": operation, "apiVersion": api_version, "fieldsType": "FieldsV1"}
        place = {"subresource": subresource} if subresource else {}
        entries.append({**entry, "fieldsV1": fields_v1(owned), **place})
    return entries
