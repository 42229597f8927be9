"""What a job may take at most, whatever the nodes have: quotas and the policy of its namespace.

A plan keeps within what they allow at all (`hard`). What others use of it now is not the planner's business, as with nodes: such a job waits.
"""

from __future__ import annotations

from typing import Final

from pydantic import Field

from finetune_operator.api.model import ReadModel
from finetune_operator.api.plan import GIB, PodResources
from finetune_operator.planner.inventory import GPU_RESOURCE

CPU: Final = "cpu"
MEMORY: Final = "memory"
DISK: Final = "ephemeral-storage"
PODS: Final = "pods"
JOBS: Final = "jobs.batch"
LEAST_MILLICORES: Final = 100
"""Of one process; a plan takes less CPU where a quota is small, but not less than this."""


class Bound(ReadModel):
    """The most that a namespace or queue may take of one resource."""

    source: str = Field(description="Who says so, such as ResourceQuota gpus.")
    resource: str = Field(
        description="cpu (millicores), memory or ephemeral-storage (bytes), pods, jobs.batch, or a GPU resource such as nvidia.com/gpu."
    )
    hard: int = Field(ge=0, description="In all.")
    used: int = Field(0, ge=0, description="Of it in use when it was read.")
    products: tuple[str, ...] = Field((), description="On these GPU types only; empty: on all.")
    except_products: tuple[str, ...] = Field((), description="Not on these GPU types.")

    def is_about(self, product: str | None) -> bool:
        """Whether it bounds jobs on that GPU type."""
        return (not self.products or product in self.products) and product not in self.except_products


class Limits(ReadModel):
    """All that bounds the jobs of one namespace."""

    bounds: tuple[Bound, ...] = ()
    gpu_products: tuple[str, ...] = Field((), description="GPU types that the namespace may use; empty: all.")
    max_gpus: int | None = Field(None, ge=0, alias="maxGPUs", description="Most GPUs of one job.")
    policy: str = Field("", description="Who says gpuProducts and maxGPUs, such as namespace team.")
    problem: str = Field("", description="Why the policy cannot be read: nothing is planned until it can.")


NO_LIMITS: Final = Limits()


def needs_of(resources: PodResources, pods: int, gpu_resource: str) -> dict[str, int]:
    """Return what all pods of an attempt ask for, by the names that `Bound.resource` uses."""
    return {
        gpu_resource: resources.gpus * pods,
        CPU: resources.cpu_millicores * pods,
        MEMORY: resources.memory_bytes * pods,
        DISK: resources.ephemeral_storage_bytes * pods,
        PODS: pods,
        JOBS: 1,
    }


def within_cpu_bounds(
    limits: Limits, resources: PodResources, pods: int, processes: int, product: str | None
) -> PodResources:
    """Return the resources with as much CPU as the bounds leave: CPU makes a job slower, not impossible."""
    allowed = min(
        (bound.hard for bound in limits.bounds if bound.resource == CPU and bound.is_about(product)), default=None
    )
    if allowed is None or resources.cpu_millicores * pods <= allowed:
        return resources
    share = allowed // pods
    least = LEAST_MILLICORES * processes // pods
    return resources.model_copy(update={"cpu_millicores": max(share - share % 50, least)})


def refusal(limits: Limits, needs: dict[str, int], product: str | None, gpus: int) -> str:
    """Return which limit a plan breaks, with numbers; empty when it keeps within all."""
    if product is not None and limits.gpu_products and product not in limits.gpu_products:
        return f"{limits.policy} allows only {' and '.join(limits.gpu_products)}"
    if limits.max_gpus is not None and gpus > limits.max_gpus:
        return f"{limits.policy} allows {limits.max_gpus} GPUs per job and it takes {gpus}"
    for bound in limits.bounds:
        need = needs.get(bound.resource, 0)
        if bound.is_about(product) and need > bound.hard:
            return f"{bound.source} allows {amount(bound.resource, bound.hard)} and it takes {amount(bound.resource, need)}"
    return ""


def waits_for(limits: Limits, needs: dict[str, int], product: str | None) -> tuple[str, ...]:
    """Return which bounds leave too little for a plan now, because others use them."""
    return tuple(
        f"{bound.source} has {amount(bound.resource, max(0, bound.hard - bound.used))} of {amount(bound.resource, bound.hard)} left now, and it "
        f"takes {amount(bound.resource, needs[bound.resource])}: pods wait until others end"
        for bound in limits.bounds
        if bound.is_about(product) and bound.hard - bound.used < needs.get(bound.resource, 0) <= bound.hard
    )


def amount(resource: str, value: int) -> str:
    """Return a number of a resource for people."""
    if resource == CPU:
        return f"{value / 1000:g} CPU"
    if resource in (MEMORY, DISK):
        return f"{value / GIB:.4g} GiB {'memory' if resource == MEMORY else 'local disk'}"
    name = {JOBS: "batch Job", PODS: "pod", GPU_RESOURCE: "GPU"}.get(resource)
    return f"{value} {name}{'' if value == 1 else 's'}" if name else f"{value} {resource}"
