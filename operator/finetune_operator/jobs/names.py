"""Names, labels and ownership of a job's children: from them alone, never from a counter, everything is found again."""

from __future__ import annotations

import hashlib
import json
from typing import Any, Final

from finetune_operator.api.constants import (
    API_VERSION,
    ATTEMPT_LABEL,
    COMPONENT_INSPECT,
    COMPONENT_LABEL,
    COMPONENT_PUBLISH,
    JOB_LABEL,
    KIND,
    SPEC_HASH_ANNOTATION,
)
from finetune_operator.api.job import ObjectMeta
from finetune_operator.jobs.decisions import ChildReference

Body = dict[str, Any]
_DIGITS: Final = 16


def inspect_name(job: str) -> str:
    """Return the name of the inspect Job."""
    return f"{job}-{COMPONENT_INSPECT}"


def publish_name(job: str) -> str:
    """Return the name of the publish Job."""
    return f"{job}-{COMPONENT_PUBLISH}"


def inspection_name(job: str) -> str:
    """Return the name of the ConfigMap with the inspection report."""
    return f"{job}-inspection"


def attempt_name(job: str, attempt: int) -> str:
    """Return the name that an attempt's Job, ConfigMap and Service share."""
    return f"{job}-{attempt}"


def rendezvous_host(job: str, attempt: int, pods: int) -> str:
    """Return where ranks meet: the pod with completion index 0, by its headless Service; the pod itself when there is one only."""
    name = attempt_name(job, attempt)
    return f"{name}-0.{name}" if pods > 1 else "127.0.0.1"


def labels(job: str, component: str, attempt: int | None = None) -> dict[str, str]:
    """Return the labels of a child and of its pods."""
    found = {JOB_LABEL: job, COMPONENT_LABEL: component}
    return found if attempt is None else {**found, ATTEMPT_LABEL: str(attempt)}


def owner_reference(job: ObjectMeta) -> Body:
    """Return the reference by which the garbage collector deletes a child with its job."""
    return {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "name": job.name,
        "uid": job.uid,
        "controller": True,
        # Deleting a job must not wait for pods that save for two minutes; true would also need rights on finalizers.
        "blockOwnerDeletion": False,
    }


def child(
    job: ObjectMeta, api_version: str, kind: str, name: str, marks: dict[str, str], content: Body
) -> dict[str, Any]:
    """Return an object that the job with this metadata owns, labelled, with the digest of what is applied."""
    body: Body = {
        "apiVersion": api_version,
        "kind": kind,
        "metadata": {
            "name": name,
            "namespace": job.namespace,
            "labels": marks,
            "ownerReferences": [owner_reference(job)],
        },
        **content,
    }
    body["metadata"]["annotations"] = {SPEC_HASH_ANNOTATION: digest(body)}
    return body


def digest(body: Body) -> str:
    """Return the digest of an object, equal for equal content whatever the order of its keys."""
    return hashlib.sha256(json.dumps(body, sort_keys=True, separators=(",", ":")).encode()).hexdigest()[:_DIGITS]


def spec_hash(body: Body) -> str:
    """Return the digest that `child` has written into an object."""
    return str(body["metadata"]["annotations"][SPEC_HASH_ANNOTATION])


def job_reference(name: str) -> ChildReference:
    """Return the reference of a batch Job."""
    return ChildReference("batch/v1", "Job", name)


def config_map_reference(name: str) -> ChildReference:
    """Return the reference of a ConfigMap."""
    return ChildReference("v1", "ConfigMap", name)


def service_reference(name: str) -> ChildReference:
    """Return the reference of a Service."""
    return ChildReference("v1", "Service", name)
