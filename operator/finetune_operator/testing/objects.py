"""Rules about single objects that the fake API server keeps to: identity, parts, preconditions, immutable fields."""

from __future__ import annotations

import re
from copy import deepcopy

from finetune_operator.controller.kube import Body, Conflict, Invalid, resource_of

STATUS_KINDS = frozenset({"FineTuneJob", "Job", "Pod", "Service", "Node"})
"""Kinds whose status is written through an endpoint of its own."""
SYSTEM_METADATA = ("uid", "resourceVersion", "generation", "creationTimestamp", "deletionTimestamp", "managedFields")
"""What the server alone writes."""


def key_of(body: Body) -> tuple[str, str, str]:
    """Return what an object is stored under: kind, namespace, name."""
    resource = resource_of(body)
    metadata = body.get("metadata", {})
    return (resource.kind, metadata.get("namespace", "") if resource.namespaced else "", metadata.get("name", ""))


def identity(body: Body) -> Body:
    """Return the object with nothing but what names it."""
    kept = {name: body["metadata"][name] for name in ("name", "namespace") if name in body["metadata"]}
    return {"apiVersion": body["apiVersion"], "kind": body["kind"], "metadata": kept}


def system_metadata(body: Body) -> Body:
    """Return what the server alone has written into an object's metadata; nothing of an object that is not there yet."""
    return {name: value for name, value in body.get("metadata", {}).items() if name in SYSTEM_METADATA}


def part(body: Body, subresource: str) -> Body:
    """Return what a write through this endpoint may change: the status, or everything else."""
    if subresource == "status":
        return {**identity(body), "status": deepcopy(body.get("status", {}))}
    rest = {
        name: deepcopy(value) for name, value in body.items() if name != "status" or body["kind"] not in STATUS_KINDS
    }
    rest["metadata"] = {name: value for name, value in rest["metadata"].items() if name not in SYSTEM_METADATA}
    return rest


def comparable(body: Body) -> Body:
    """Return what of an object counts as a change."""
    metadata = {
        name: value for name, value in body["metadata"].items() if name not in ("resourceVersion", "managedFields")
    }
    return {**body, "metadata": metadata}


def check_preconditions(body: Body, live: Body | None) -> None:
    """Refuse a write that is meant for another object or for an older version, as the real server does.

    A real server ignores the uid in a status that is applied; only the resourceVersion fences it.
    """
    uid, version = body["metadata"].get("uid"), body["metadata"].get("resourceVersion")
    if live is None:
        if uid or version:
            raise Conflict(409, "Conflict", f"uid mismatch: the provided object specified uid {uid}, and there is none")
    elif version and version != live["metadata"]["resourceVersion"]:
        raise Conflict(409, "Conflict", "the object has been modified; please apply your changes to the latest version")
    elif uid and uid != live["metadata"]["uid"]:
        raise Invalid(422, "Invalid", "metadata.uid: Invalid value: field is immutable")


def check_immutable(old: Body, new: Body) -> None:
    """Refuse to change what a real server keeps as it is."""
    if old.get("kind") == "ConfigMap" and old.get("immutable") and old.get("data") != new.get("data"):
        raise Invalid(422, "Invalid", "data: Forbidden: field is immutable when `immutable` is set")
    if old.get("kind") == "Job" and "spec" in old:
        for name in ("template", "completions", "completionMode", "podFailurePolicy"):
            if old["spec"].get(name) != new["spec"].get(name):
                raise Invalid(422, "Invalid", f"spec.{name}: Invalid value: field is immutable")


def dotted(path: tuple[str, ...]) -> str:
    """Return a field path as conflicts name it."""
    return "".join(re.sub("^[fkv]:", ".", element) if element[0] == "f" else f"[{element[2:]}]" for element in path)
