"""Builders of API objects: the least that is valid, with everything else named by the test that needs it."""

from __future__ import annotations

from typing import Any

from finetune_operator.api.constants import (
    API_VERSION,
    ATTEMPT_LABEL,
    COMPONENT_LABEL,
    COMPONENT_TRAIN,
    JOB_LABEL,
    KIND,
)

Body = dict[str, Any]


def finetune_job(name: str = "tune", namespace: str = "team", *, spec: Body | None = None, **parts: Any) -> Body:
    """Return a FineTuneJob; `spec` is laid over a minimal one, field by field at the first level."""
    minimal = {
        "model": {"uri": "hf://org/tiny"},
        "dataset": {"uri": "s3://data/rows.jsonl"},
        "output": {"uri": f"s3://models/{name}"},
    }
    metadata = {"name": name, "namespace": namespace, **parts.pop("metadata", {})}
    return {"apiVersion": API_VERSION, "kind": KIND, "metadata": metadata, "spec": {**minimal, **(spec or {})}, **parts}


def owned_by(owner: Body, body: Body) -> Body:
    """Return `body` with `owner` as its controller; the owner must have been stored, so that it has a uid."""
    reference = {
        "apiVersion": owner["apiVersion"],
        "kind": owner["kind"],
        "name": owner["metadata"]["name"],
        "uid": owner["metadata"]["uid"],
        "controller": True,
        "blockOwnerDeletion": True,
    }
    return {**body, "metadata": {**body["metadata"], "ownerReferences": [reference]}}


def _labels(job: str, component: str, attempt: int | None) -> dict[str, str]:
    labels = {JOB_LABEL: job, COMPONENT_LABEL: component}
    return labels if attempt is None else {**labels, ATTEMPT_LABEL: str(attempt)}


def indexed_job(
    job: str = "tune",
    attempt: int | None = 1,
    *,
    namespace: str = "team",
    component: str = COMPONENT_TRAIN,
    completions: int = 1,
    status: Body | None = None,
) -> Body:
    """Return a batch Job as the operator names and labels it: `<job>-<attempt>`, or `<job>-<component>` without one."""
    name = f"{job}-{component if attempt is None else attempt}"
    labels = _labels(job, component, attempt)
    container = {"name": "trainer", "image": "trainer:test", "env": [{"name": "SOME", "value": "value"}]}
    template = {"metadata": {"labels": labels}, "spec": {"restartPolicy": "Never", "containers": [container]}}
    spec = {
        "completionMode": "Indexed",
        "completions": completions,
        "parallelism": completions,
        "suspend": False,
        "template": template,
    }
    body: Body = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name, "namespace": namespace, "labels": labels},
        "spec": spec,
    }
    return body if status is None else {**body, "status": status}


def pod(
    name: str,
    job: str = "tune",
    attempt: int | None = 1,
    *,
    namespace: str = "team",
    component: str = COMPONENT_TRAIN,
    **parts: Any,
) -> Body:
    """Return a pod of a job's child."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace, "labels": _labels(job, component, attempt)},
        "spec": {"containers": [{"name": "trainer", "image": "trainer:test"}]},
        **parts,
    }


def config_map(
    name: str,
    data: dict[str, str],
    *,
    namespace: str = "team",
    labels: dict[str, str] | None = None,
    immutable: bool = True,
) -> Body:
    """Return a ConfigMap."""
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": name, "namespace": namespace, **({"labels": labels} if labels else {})},
        "immutable": immutable,
        "data": data,
    }


def node(
    name: str,
    *,
    labels: dict[str, str] | None = None,
    allocatable: dict[str, str] | None = None,
    unschedulable: bool = False,
) -> Body:
    """Return a Node."""
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": labels or {}},
        "spec": {"unschedulable": True} if unschedulable else {},
        "status": {"allocatable": allocatable or {"cpu": "8", "memory": "32Gi", "pods": "110"}},
    }
