"""What the controller needs of a Kubernetes API server, and nothing else: seven verbs on JSON objects, and their errors.

Everything above this line works on `Api`, so that it runs unchanged on the real client (`kube_client`) and on the
in-memory fake (`finetune_operator.testing.FakeApi`). The kinds are a closed table: no discovery requests at start, and
the chart's RBAC can be compared with it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol

from finetune_operator.api.constants import API_VERSION, FIELD_MANAGER, KIND, PLURAL

Body = dict[str, Any]
"""One Kubernetes object (or Status) as JSON."""


@dataclass(frozen=True)
class Resource:
    """Where the objects of one kind live in the API."""

    api_version: str
    kind: str
    plural: str
    namespaced: bool = True

    @property
    def group(self) -> str:
        """The API group; empty for the core group."""
        return self.api_version.rpartition("/")[0]

    def path(self, namespace: str = "", name: str = "", subresource: str = "") -> str:
        """Return the URL path of a collection (no name) or an object; no namespace means all namespaces."""
        parts = ["apis" if self.group else "api", self.api_version]
        if namespace and self.namespaced:
            parts += ["namespaces", namespace]
        parts.append(self.plural)
        if name:
            parts.append(name)
        if subresource:
            parts.append(subresource)
        return "/" + "/".join(parts)


FINETUNE_JOBS: Final = Resource(API_VERSION, KIND, PLURAL)
JOBS: Final = Resource("batch/v1", "Job", "jobs")
PODS: Final = Resource("v1", "Pod", "pods")
CONFIG_MAPS: Final = Resource("v1", "ConfigMap", "configmaps")
SERVICES: Final = Resource("v1", "Service", "services")
NAMESPACES: Final = Resource("v1", "Namespace", "namespaces", namespaced=False)
RESOURCE_QUOTAS: Final = Resource("v1", "ResourceQuota", "resourcequotas")
NODES: Final = Resource("v1", "Node", "nodes", namespaced=False)
EVENTS: Final = Resource("events.k8s.io/v1", "Event", "events")
LEASES: Final = Resource("coordination.k8s.io/v1", "Lease", "leases")
TOKEN_REVIEWS: Final = Resource("authentication.k8s.io/v1", "TokenReview", "tokenreviews", namespaced=False)
KUEUE_VERSIONS: Final = ("kueue.x-k8s.io/v1beta2", "kueue.x-k8s.io/v1beta1")
"""Newest first; Kueue 0.15 and later serve both."""
LOCAL_QUEUES: Final = tuple(Resource(version, "LocalQueue", "localqueues") for version in KUEUE_VERSIONS)
CLUSTER_QUEUES: Final = tuple(
    Resource(version, "ClusterQueue", "clusterqueues", namespaced=False) for version in KUEUE_VERSIONS
)
RESOURCE_FLAVORS: Final = tuple(
    Resource(version, "ResourceFlavor", "resourceflavors", namespaced=False) for version in KUEUE_VERSIONS
)

RESOURCES: Final[Mapping[tuple[str, str], Resource]] = {
    (resource.api_version, resource.kind): resource
    for resource in (
        FINETUNE_JOBS,
        JOBS,
        PODS,
        CONFIG_MAPS,
        SERVICES,
        NAMESPACES,
        RESOURCE_QUOTAS,
        NODES,
        EVENTS,
        LEASES,
        TOKEN_REVIEWS,
        *LOCAL_QUEUES,
        *CLUSTER_QUEUES,
        *RESOURCE_FLAVORS,
    )
}


def resource_of(body: Mapping[str, Any]) -> Resource:
    """Return where `body` lives, by its apiVersion and kind.

    Raises:
        ValueError: the kind is not in the table above.
    """
    key = (str(body.get("apiVersion", "")), str(body.get("kind", "")))
    if key not in RESOURCES:
        raise ValueError(
            f"{key[0]} {key[1]} is not a kind this operator handles; add it to controller/kube.py and to the chart's RBAC"
        )
    return RESOURCES[key]


@dataclass(frozen=True)
class Listing:
    """The objects of one list call, all pages together. Items carry no apiVersion and kind when the server omits them."""

    items: tuple[Body, ...]


class Api(Protocol):
    """The verbs. Every call is bounded in time and fails with an `ApiError` only."""

    async def apply(
        self, body: Body, *, manager: str = FIELD_MANAGER, subresource: str = "", force: bool = True
    ) -> Body:
        """Server-side apply `body` (with name and namespace) as `manager`; return the object as it is now."""
        ...

    async def create(self, body: Body) -> Body:
        """POST `body`; Conflict when the name is taken. Also for reviews, whose answer is in the returned status."""
        ...

    async def replace(self, body: Body) -> Body:
        """PUT `body`; Conflict when its resourceVersion is not the newest any more."""
        ...

    async def delete(self, resource: Resource, namespace: str, name: str, *, uid: str = "") -> None:
        """Delete an object, its dependents in the background. With `uid`, only that very object, else Conflict."""
        ...

    async def get(self, resource: Resource, namespace: str, name: str) -> Body:
        """Return one object, or raise NotFound."""
        ...

    async def list(self, resource: Resource, namespace: str = "", *, labels: str = "", fields: str = "") -> Listing:
        """Return all objects of a namespace (or of all) that match the label and field selectors."""
        ...


class ApiError(Exception):
    """A request that failed. `status` is the HTTP status, 0 when no answer came; `reason` the machine's word for it."""

    def __init__(self, status: int, reason: str, message: str) -> None:
        self.status = status
        self.reason = reason
        self.message = message
        super().__init__(f"{status} {reason}: {message}" if status else f"{reason}: {message}")


class Forbidden(ApiError):
    """403: RBAC, quota or an admission policy refuses; only a person can change that."""


class NotFound(ApiError):
    """404: the object, its namespace or its kind is not there."""


class Conflict(ApiError):
    """409: the name is taken, the resourceVersion is old, or a field belongs to another manager."""


class Invalid(ApiError):
    """400 or 422: the object breaks the schema, a CEL rule or an immutable field."""


class TooManyRequests(ApiError):
    """429: the API server asks us to wait `retry_after` seconds."""

    def __init__(self, status: int, reason: str, message: str, retry_after: float) -> None:
        self.retry_after = retry_after
        super().__init__(status, reason, message)


class Unavailable(ApiError):
    """5xx, a timeout or no connection: the request may have been carried out or not."""


_BY_STATUS: Final[Mapping[int, type[ApiError]]] = {
    400: Invalid,
    403: Forbidden,
    404: NotFound,
    409: Conflict,
    422: Invalid,
}


def error_of(status: int, body: Mapping[str, Any], retry_after: str | None = None) -> ApiError:
    """Return the error for an HTTP answer: its status, its Status object and its Retry-After header."""
    reason = str(body.get("reason") or "Unknown")
    message = str(body.get("message") or "the API server gave no message")
    if status == 429:
        seconds = float(retry_after) if retry_after and retry_after.isdigit() else 1.0
        return TooManyRequests(status, reason, message, seconds)
    if status >= 500:
        return Unavailable(status, reason, message)
    return _BY_STATUS.get(status, ApiError)(status, reason, message)
