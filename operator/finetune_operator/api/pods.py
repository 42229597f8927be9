"""What a job's pods get: priority, secrets, and what the user adds to them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import ClassVar, Final, Literal

from pydantic import Field

from finetune_operator.api.locations import OBJECT_NAME_PATTERN, ObjectName
from finetune_operator.api.model import Rule, SpecModel, text_rule


class Scheduling(SpecModel):
    """How the cluster schedules the pods."""

    priority_class: str | None = Field(
        None, min_length=1, max_length=253, description="PriorityClass of the training pods. Default: the cluster's."
    )


class SecretReference(SpecModel):
    """A Secret in the job's namespace; its keys become environment variables of the job's pods."""

    secret: ObjectName = Field(description="Name of the Secret.")

    rules: ClassVar[tuple[Rule, ...]] = (
        text_rule(
            "secret",
            "secret",
            OBJECT_NAME_PATTERN,
            "credentials: secret is the name of a Secret in the job's namespace (lower-case letters, digits, - and .); "
            "never write a key or token here",
        ),
    )


class Credentials(SpecModel):
    """Secrets for model, data and output. The operator never reads them; only the job's pods do."""

    model: SecretReference | None = Field(None, description="Secret with HF_TOKEN for hf:// locations.")
    storage: SecretReference | None = Field(
        None,
        description=(
            "Secret for buckets: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION, AWS_ENDPOINT_URL; or GOOGLE_SERVICE_ACCOUNT_KEY; "
            "or AZURE_STORAGE_ACCOUNT_NAME, AZURE_STORAGE_ACCOUNT_KEY."
        ),
    )
    judge: SecretReference | None = Field(
        None,
        description="Secret with OPENAI_API_KEY for evaluation.judge and dataset.filters.judge. Default: no key is sent.",
    )
    registry: SecretReference | None = Field(
        None,
        description=(
            "Secret of type kubernetes.io/dockerconfigjson with the login for output.oci; a key ca.crt beside it has the authority of the "
            "registry's certificate. Mounted where the result is checked and published alone."
        ),
    )
    service_account: ObjectName | None = Field(
        None,
        description="ServiceAccount of the job's pods (workload identity for buckets). Default: the namespace's default.",
    )

    rules: ClassVar[tuple[Rule, ...]] = (
        text_rule(
            "serviceAccount",
            "service_account",
            OBJECT_NAME_PATTERN,
            "credentials.serviceAccount is the name of a ServiceAccount in the job's namespace (lower-case letters, digits, - and .)",
        ),
    )


class EnvironmentVariable(SpecModel):
    """One environment variable with a literal value; secrets belong into credentials."""

    name: str = Field(max_length=100, description="Name of the variable.")
    value: str = Field("", max_length=4096, description="Its value.")

    rules: ClassVar[tuple[Rule, ...]] = (
        text_rule(
            "name",
            "name",
            "^[A-Za-z_][A-Za-z0-9_]*$",
            "pod.env: a variable's name has letters, digits and _ only, and does not start with a digit",
        ),
    )


class Toleration(SpecModel):
    """A toleration, as in a pod's spec."""

    key: str | None = Field(None, max_length=316, description="Taint key; absent with operator Exists matches all.")
    operator: Literal["Exists", "Equal"] = Field("Equal", description="Default Equal.")
    value: str | None = Field(None, max_length=63, description="Taint value (operator Equal).")
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = Field(
        None, description="Absent matches all effects."
    )
    toleration_seconds: int | None = Field(None, description="How long a NoExecute taint is tolerated, in seconds.")


_LABEL: Final = "[a-z0-9]([-a-z0-9]*[a-z0-9])?"
_DEVICE_PATTERN: Final = f"^{_LABEL}([.]{_LABEL})*/[A-Za-z0-9]([-A-Za-z0-9_.]{{0,61}}[A-Za-z0-9])?$"
"""A DNS name, a slash and a name, as Kubernetes wants extended resources to be called."""
_GPU_PATTERN: Final = "^(nvidia[.]com/(gpu|mig-)|amd[.]com/gpu)"
_NATIVE_PATTERN: Final = "^requests[.]|kubernetes[.]io/"
"""What Kubernetes 1.36 takes for resources of its own (pkg/apis/core/v1/helper, IsNativeResource and IsExtendedResourceName)."""


class ExtendedResource(SpecModel):
    """Devices of one kind that a device plugin hands out, beside GPUs: network adapters, for instance."""

    name: str = Field(max_length=200, description="The resource's name, such as vpc.amazonaws.com/efa or rdma/hca.")
    count: int = Field(ge=1, le=1000, description="How many of them each training pod gets.")

    rules: ClassVar[tuple[Rule, ...]] = (
        text_rule(
            "name",
            "name",
            _DEVICE_PATTERN,
            "pod.extendedResources: name is that of a device plugin's resource, domain/name, such as vpc.amazonaws.com/efa or rdma/hca; "
            "cpu, memory and disk are planned: remove them",
        ),
        Rule(
            cel=f"!self.name.matches('{_GPU_PATTERN}')",
            message="pod.extendedResources: name is a GPU's, and GPUs are planned; remove it and set resources.gpus",
            holds=lambda resource: re.search(_GPU_PATTERN, resource.name) is None,
        ),
        Rule(
            cel=f"!self.name.matches('{_NATIVE_PATTERN}')",
            message="pod.extendedResources: name is in Kubernetes' own domain (kubernetes.io, or requests.), where no device plugin has its "
            "devices; write the name that kubectl describe node shows under Allocatable",
            holds=lambda resource: re.search(_NATIVE_PATTERN, resource.name) is None,
        ),
    )


class Pod(SpecModel):
    """What is added to every pod of the job."""

    labels: dict[str, str] = Field(default_factory=dict, description="Labels of the pods.")
    annotations: dict[str, str] = Field(default_factory=dict, description="Annotations of the pods.")
    node_selector: dict[str, str] = Field(default_factory=dict, description="Node labels that the pods need.")
    tolerations: list[Toleration] = Field(
        default_factory=list, max_length=50, description="Taints that the pods tolerate."
    )
    env: list[EnvironmentVariable] = Field(
        default_factory=list, max_length=100, description="Environment variables of the containers."
    )
    extended_resources: list[ExtendedResource] | None = Field(
        None,
        max_length=8,
        description=(
            "Devices that each training pod gets beside its GPUs, as limits of the container that trains; of the job's other pods none. Which nodes "
            "have them is not planned: choose those with nodeSelector. Default: none."
        ),
    )
    termination_grace_period_seconds: int = Field(
        120,
        ge=1,
        le=86400,
        description=(
            "Seconds from SIGTERM to SIGKILL, in which a stopped pod saves a checkpoint: when it is suspended, evicted or deleted. Whoever "
            "stops it may give it less. Default 120."
        ),
    )

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="!has(self.extendedResources) || self.extendedResources.all(r, self.extendedResources.exists_one(s, s.name == r.name))",
            message="pod.extendedResources: a name stands twice; write it once, with the sum of both counts",
            holds=lambda pod: len(pod.devices) == len(pod.extended_resources or ()),
        ),
    )

    @property
    def devices(self) -> Mapping[str, int]:
        """How many devices of each name a training pod gets beside GPUs."""
        return {resource.name: resource.count for resource in self.extended_resources or ()}
