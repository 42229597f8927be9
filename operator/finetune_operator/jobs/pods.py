"""The pods of a job's children: what is equal in all of them, restricted by the Pod Security standard of that name.

Values that a user may not override are written last: labels by which pods are found, the GPU type that was planned, and the `FINETUNE_` variables.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from finetune_operator.api.constants import (
    GRACE_PERIOD_VARIABLE,
    MODEL_CACHE_DIRECTORY,
    MODEL_CACHE_VARIABLE,
    NODE_VARIABLE,
    REGISTRY_CA_FILE,
    REGISTRY_CONFIG_FILE,
    REGISTRY_DIRECTORY,
    REGISTRY_SECRET_KEY,
    REGISTRY_VARIABLE,
    TERMINATION_LOG,
    TERMINATION_LOG_VARIABLE,
    TOKEN_AUDIENCE,
    TOKEN_DIRECTORY,
    WORK_DIRECTORY,
    WORK_DIRECTORY_VARIABLE,
    WORK_VOLUME,
)
from finetune_operator.api.spec import FineTuneJobSpec
from finetune_operator.jobs.decisions import RenderSettings
from finetune_operator.jobs.model_cache import CacheVolume

Body = dict[str, Any]

CONTAINER_NAME: Final = "trainer"
USER_ID: Final = 65532
TOKEN_SECONDS: Final = 3600
_MEBIBYTE: Final = 2**20


def mebibytes(size: int) -> str:
    """Return a byte count as a Kubernetes quantity, rounded up to whole MiB."""
    return f"{-(-size // _MEBIBYTE)}Mi"


def disk_request(size: int) -> dict[str, str]:
    """Return the request for local disk; none where the nodes do not offer any, since the pod would wait for ever."""
    return {"ephemeral-storage": mebibytes(size)} if size else {}


def millicores(value: int) -> str:
    """Return a CPU quantity."""
    return f"{value}m"


@dataclass(frozen=True)
class PodShape:
    """What distinguishes one component's pods from another's."""

    image: str
    arguments: tuple[str, ...]
    labels: Mapping[str, str]
    resources: Body
    work_bytes: int
    """Size limit of the work directory; 0 sets none."""
    environment: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    ports: tuple[Body, ...] = ()
    volumes: tuple[Body, ...] = ()
    mounts: tuple[Body, ...] = ()
    node_selector: Mapping[str, str] = field(default_factory=dict)
    tolerations: tuple[Body, ...] = ()
    model_cache: CacheVolume | None = None
    tracks: bool = False
    """Whether the pod gets the keys of spec.tracking."""
    logs_in: bool = False
    """Whether the pod gets the login for the registry of output.oci."""
    judges: bool = False
    """Whether the pod gets the key of credentials.judge."""
    name: str = CONTAINER_NAME
    command: tuple[str, ...] = ()
    """Instead of the image's own entrypoint."""
    writes_anywhere: bool = False
    """Whether the container's root file system can be written, as foreign images expect."""
    beside: tuple[PodShape, ...] = ()
    """Further containers; of theirs only what concerns a container is used."""
    extra: Mapping[str, Any] = field(default_factory=dict)
    """Further fields of the pod's spec, such as `subdomain`."""


def pod_template(spec: FineTuneJobSpec, settings: RenderSettings, shape: PodShape) -> Body:
    """Return the template of a batch Job."""
    metadata: Body = {"labels": {**spec.pod.labels, **shape.labels}}
    if annotations := {**spec.pod.annotations, **shape.annotations}:
        metadata["annotations"] = annotations
    content: Body = {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": spec.pod.termination_grace_period_seconds,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER_ID,
            "runAsGroup": USER_ID,
            "fsGroup": USER_ID,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [_container(spec, settings, each) for each in (shape, *shape.beside)],
        "volumes": [
            {"name": WORK_VOLUME, "emptyDir": {"sizeLimit": mebibytes(shape.work_bytes)} if shape.work_bytes else {}},
            {"name": "temporary", "emptyDir": {}},
            _token_volume(),
            *shape.volumes,
            *_registry_volumes(spec, shape),
            *((shape.model_cache.volume,) if shape.model_cache else ()),
        ],
        **shape.extra,
    }
    if spec.credentials.service_account:
        content["serviceAccountName"] = spec.credentials.service_account
    if settings.image_pull_secrets:
        content["imagePullSecrets"] = [{"name": name} for name in settings.image_pull_secrets]
    if selector := {**spec.pod.node_selector, **shape.node_selector}:
        content["nodeSelector"] = selector
    if tolerations := [*(t.to_json_dict() for t in spec.pod.tolerations), *shape.tolerations]:
        content["tolerations"] = tolerations
    return {"metadata": metadata, "spec": content}


def _container(spec: FineTuneJobSpec, settings: RenderSettings, shape: PodShape) -> Body:
    container: Body = {
        "name": shape.name,
        "image": shape.image,
        "imagePullPolicy": settings.image_pull_policy,
        **({"command": list(shape.command)} if shape.command else {"args": list(shape.arguments)}),
        "env": _environment(spec, shape),
        "resources": shape.resources,
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": not shape.writes_anywhere,
            "runAsNonRoot": True,
        },
        "terminationMessagePath": TERMINATION_LOG,
        "terminationMessagePolicy": "File",
        "volumeMounts": [
            {"name": WORK_VOLUME, "mountPath": WORK_DIRECTORY},
            {"name": "temporary", "mountPath": "/tmp"},  # noqa: S108 - a mount of the pod's own
            {"name": "token", "mountPath": TOKEN_DIRECTORY, "readOnly": True},
            *shape.mounts,
            *(
                {"name": "registry", "mountPath": REGISTRY_DIRECTORY, "readOnly": True}
                for _ in _registry_volumes(spec, shape)
            ),
            *((shape.model_cache.mount,) if shape.model_cache else ()),
        ],
    }
    # One Secret may hold several: named twice, the API server would keep both entries, to no use.
    named = (spec.credentials.model, spec.credentials.storage, spec.credentials.judge if shape.judges else None)
    keys = spec.tracking.secrets if shape.tracks else ()
    secrets = dict.fromkeys((*(ref.secret for ref in named if ref), *keys))
    if secrets:
        container["envFrom"] = [{"secretRef": {"name": name}} for name in secrets]
    if shape.ports:
        container["ports"] = list(shape.ports)
    return container


def _environment(spec: FineTuneJobSpec, shape: PodShape) -> list[Body]:
    cache = f"{WORK_DIRECTORY}/cache"
    merged = {
        "HOME": WORK_DIRECTORY,
        "HF_HOME": f"{cache}/huggingface",
        "TRITON_CACHE_DIR": f"{cache}/triton",
        "XDG_CACHE_HOME": cache,
        "TMPDIR": "/tmp",  # noqa: S108 - a mount of the pod's own
        "PYTHONUNBUFFERED": "1",
        "TOKENIZERS_PARALLELISM": "false",
        **shape.environment,
        **{variable.name: variable.value for variable in spec.pod.env},
        WORK_DIRECTORY_VARIABLE: WORK_DIRECTORY,
        TERMINATION_LOG_VARIABLE: TERMINATION_LOG,
        GRACE_PERIOD_VARIABLE: str(spec.pod.termination_grace_period_seconds),
        **({MODEL_CACHE_VARIABLE: MODEL_CACHE_DIRECTORY} if shape.model_cache else {}),
        **({REGISTRY_VARIABLE: REGISTRY_DIRECTORY} if _registry_volumes(spec, shape) else {}),
    }
    node = {"name": NODE_VARIABLE, "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}}
    return [node, *({"name": name, "value": value} for name, value in merged.items() if name != NODE_VARIABLE)]


def _registry_volumes(spec: FineTuneJobSpec, shape: PodShape) -> tuple[Body, ...]:
    """Return the volume with the registry's login, for pods that talk to it."""
    if not shape.logs_in or spec.credentials.registry is None:
        return ()
    items = [
        {"key": REGISTRY_SECRET_KEY, "path": REGISTRY_CONFIG_FILE},
        {"key": REGISTRY_CA_FILE, "path": REGISTRY_CA_FILE},
    ]
    # Each part of a projected volume may lack its keys, so that a Secret needs no ca.crt.
    parts = [
        {"secret": {"name": spec.credentials.registry.secret, "items": [item], "optional": True}} for item in items
    ]
    return ({"name": "registry", "projected": {"sources": parts}},)


def _token_volume() -> Body:
    token = {"audience": TOKEN_AUDIENCE, "expirationSeconds": TOKEN_SECONDS, "path": "token"}
    return {"name": "token", "projected": {"sources": [{"serviceAccountToken": token}]}}
