"""From Kubernetes objects to the limits of one namespace's jobs: ResourceQuotas, the namespace's annotations, and Kueue's queues.

Only what can bind our pods counts. They have requests of CPU, memory, local disk and GPUs, limits equal to the requests of memory and GPUs, no
CPU limit, and no active deadline; so the scopes NotTerminating and NotBestEffort are theirs, and the others are not.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from finetune_operator.api.constants import GROUP
from finetune_operator.planner.gpu_labels import PRODUCT_LABEL
from finetune_operator.planner.limits import CPU, DISK, JOBS, MEMORY, PODS, Bound, Limits
from finetune_operator.planner.quantities import parse_quantity

GPU_PRODUCTS_ANNOTATION: Final = f"{GROUP}/gpu-products"
"""On a Namespace: the GPU types that its jobs may use, with commas between them."""
MAX_GPUS_ANNOTATION: Final = f"{GROUP}/max-gpus"
"""On a Namespace: the most GPUs of one job."""

_NAMES: Final = {
    "cpu": CPU,
    "requests.cpu": CPU,
    "memory": MEMORY,
    "requests.memory": MEMORY,
    "limits.memory": MEMORY,
    "ephemeral-storage": DISK,
    "requests.ephemeral-storage": DISK,
    "pods": PODS,
    "count/pods": PODS,
    "count/jobs.batch": JOBS,
}
_EXTENDED: Final = "requests."
_OURS: Final = frozenset({"NotTerminating", "NotBestEffort"})

Body = Mapping[str, Any]


def namespace_limits(namespace: Body, quotas: Iterable[Body], priority_class: str | None = None) -> Limits:
    """Return what bounds a job of a namespace.

    Args:
        namespace: The Namespace object; `{}` where it cannot be read.
        quotas: Its ResourceQuota objects.
        priority_class: Of the job's pods, for quotas of one priority class.
    """
    metadata = namespace.get("metadata") or {}
    annotations = metadata.get("annotations") or {}
    name = metadata.get("name", "")
    products = tuple(part.strip() for part in annotations.get(GPU_PRODUCTS_ANNOTATION, "").split(",") if part.strip())
    text = annotations.get(MAX_GPUS_ANNOTATION, "").strip()
    problem = ""
    if text and not text.isdecimal():
        problem = (
            f"annotation {MAX_GPUS_ANNOTATION} of namespace {name} is {text!r}; write a whole number of GPUs such as 8"
        )
    return Limits(
        bounds=tuple(bound for quota in quotas for bound in quota_bounds(quota, priority_class)),
        gpu_products=products,
        max_gpus=int(text) if text and not problem else None,
        policy=f"namespace {name}",
        problem=problem,
    )


def quota_bounds(quota: Body, priority_class: str | None = None) -> tuple[Bound, ...]:
    """Return what one ResourceQuota allows training pods of that priority class; nothing where its scope is another's."""
    spec, status = quota.get("spec") or {}, quota.get("status") or {}
    if not _covers(spec, priority_class):
        return ()
    hard, used = status.get("hard") or spec.get("hard") or {}, status.get("used") or {}
    source = f"ResourceQuota {quota['metadata']['name']}"
    bounds = []
    for key, value in sorted(hard.items()):
        resource = _NAMES.get(key) or (
            key.removeprefix(_EXTENDED) if key.startswith(_EXTENDED) and "/" in key else None
        )
        if resource is not None:
            most, taken = _number(resource, value), _number(resource, used.get(key, "0"))
            bounds.append(Bound(source=source, resource=resource, hard=most, used=taken))
    return tuple(bounds)


def queue_bounds(cluster_queue: Body, flavours: Iterable[Body]) -> tuple[Bound, ...]:
    """Return what a Kueue ClusterQueue can ever admit, by GPU type.

    A flavour with node label nvidia.com/gpu.product counts for that type, one without it for all. A queue in a cohort may borrow: up to
    borrowingLimit, and without that as much as the cohort has, which bounds nothing here.

    Args:
        cluster_queue: ClusterQueue object (kueue.x-k8s.io, v1beta1 or v1beta2).
        flavours: All ResourceFlavor objects that it may name.
    """
    name = cluster_queue["metadata"]["name"]
    spec = cluster_queue.get("spec") or {}
    in_cohort = bool(spec.get("cohort") or spec.get("cohortName"))
    products = {
        body["metadata"]["name"]: ((body.get("spec") or {}).get("nodeLabels") or {}).get(PRODUCT_LABEL)
        for body in flavours
    }
    bounds: list[Bound] = []
    for group in spec.get("resourceGroups") or ():
        for resource in group.get("coveredResources") or ():
            by_product: dict[str | None, list[int | None]] = {}
            for flavour in group.get("flavors") or ():
                most = _most(flavour, resource, in_cohort=in_cohort)
                by_product.setdefault(products.get(flavour["name"]), []).append(most)
            bounds += _by_product(f"ClusterQueue {name}", resource, by_product)
    return tuple(bounds)


def _by_product(source: str, resource: str, found: Mapping[str | None, list[int | None]]) -> Iterator[Bound]:
    """One bound per GPU type: the best flavour that it may be given; None among them means no bound."""
    named = tuple(sorted(product for product in found if product is not None))
    everywhere = found.get(None, [])
    for product in (*named, None):
        choices = [*(found.get(product, []) if product is not None else []), *everywhere]
        if not choices or None in choices:
            continue
        hard = max(choice for choice in choices if choice is not None)
        mine: dict[str, tuple[str, ...]] = {"products": (product,)} if product else {"except_products": named}
        yield Bound(source=source, resource=resource, hard=hard, **mine)


def _most(flavour: Body, resource: str, *, in_cohort: bool) -> int | None:
    """What a queue may take of one flavour, borrowed included; None without a bound."""
    quota: Body = next((entry for entry in flavour.get("resources") or () if entry.get("name") == resource), {})
    nominal = _number(resource, quota.get("nominalQuota", "0"))
    if not in_cohort:
        return nominal
    borrowed = quota.get("borrowingLimit")
    return None if borrowed is None else nominal + _number(resource, borrowed)


def _covers(spec: Body, priority_class: str | None) -> bool:
    if not set(spec.get("scopes") or ()) <= _OURS:
        return False
    expressions = (spec.get("scopeSelector") or {}).get("matchExpressions") or ()
    return all(_matches(expression, priority_class) for expression in expressions)


def _matches(expression: Body, priority_class: str | None) -> bool:
    if expression.get("scopeName") != "PriorityClass":
        return expression.get("scopeName") in _OURS and expression.get("operator") == "Exists"
    values = expression.get("values") or ()
    match expression.get("operator"):
        case "In":
            return priority_class in values
        case "NotIn":
            return priority_class not in values
        case "Exists":
            return priority_class is not None
        case _:
            return priority_class is None


def _number(resource: str, text: Any) -> int:
    value = parse_quantity(str(text))
    return int(value * 1000) if resource == CPU else int(value)
