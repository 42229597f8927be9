"""Every name that users, pods and the operator must agree on: API group, labels, ports, paths, environment variables."""

from __future__ import annotations

from typing import Final

GROUP: Final = "finetune-operator.dev"
VERSION: Final = "v1alpha1"
API_VERSION: Final = "finetune-operator.dev/v1alpha1"
KIND: Final = "FineTuneJob"
PLURAL: Final = "finetunejobs"
SINGULAR: Final = "finetunejob"
SHORT_NAME: Final = "ftj"

JOB_LABEL: Final = f"{GROUP}/job"
"""The name of the FineTuneJob that a child belongs to; on every child and pod."""
ATTEMPT_LABEL: Final = f"{GROUP}/attempt"
"""The number of the attempt, from 1; on the children and pods of one attempt."""
COMPONENT_LABEL: Final = f"{GROUP}/component"
"""inspect, train or publish."""

COMPONENT_INSPECT: Final = "inspect"
COMPONENT_TRAIN: Final = "train"
COMPONENT_PUBLISH: Final = "publish"

REQUEST_ANNOTATION: Final = f"{GROUP}/inspection-request"
"""On the inspect pod: the InspectionRequest as JSON, read through the downward API."""
INSPECTION_KEY_LABEL: Final = f"{GROUP}/inspection-key"
"""On an inspection's ConfigMap: the digest of what was inspected, so that equal jobs find it."""
SPEC_HASH_ANNOTATION: Final = f"{GROUP}/spec-hash"
"""On every child: the digest of what the operator applied, so that an equal object is not applied again."""

FIELD_MANAGER: Final = "finetune-operator"
PROGRESS_FIELD_MANAGER: Final = "finetune-operator-progress"

MAXIMUM_NAME_LENGTH: Final = 45
"""Job names stay below this, so that a pod's host name (`<job>-<attempt>-<index>`, with suffixes) stays within 63 characters."""

INSPECTION_FILE: Final = "inspection.json"
"""The key of ConfigMap `<job>-inspection` that holds the report."""
PLAN_FILE: Final = "plan.json"
"""The key of ConfigMap `<job>-<attempt>` that holds the attempt (an `AttemptFile`)."""
MANIFEST_FILE: Final = "manifest.json"
"""Written last and create-only: a checkpoint or model without it does not exist."""
INSPECTION_REPORT_LIMIT_BYTES: Final = 256 * 1024

PLAN_DIRECTORY: Final = "/etc/finetune"
REQUEST_PATH: Final = f"{PLAN_DIRECTORY}/request.json"
PLAN_PATH: Final = f"{PLAN_DIRECTORY}/{PLAN_FILE}"
WORK_DIRECTORY: Final = "/workspace"
"""An emptyDir in every pod: model download, staged checkpoints, caches."""
WORK_VOLUME: Final = "work"
"""The volume of a pod that is mounted there."""
WORK_DIRECTORY_VARIABLE: Final = "FINETUNE_WORK_DIRECTORY"
MODEL_CACHE_DIRECTORY: Final = "/model-cache"
"""The volume of model.cache in training and publish pods."""
MODEL_CACHE_VARIABLE: Final = "FINETUNE_MODEL_CACHE"
"""The folder in which models are shared; absent where they are not."""
CONFIG_MAP_DIRECTORY: Final = "/var/run/finetune-operator/config-maps"
"""In inspect and training pods: a folder for each ConfigMap that has functions of the user, named like it."""
CONFIG_MAP_VARIABLE: Final = "FINETUNE_CONFIG_MAPS"
"""Names that folder where it is another one: in local runs."""
TERMINATION_LOG: Final = "/dev/termination-log"
TERMINATION_LOG_VARIABLE: Final = "FINETUNE_TERMINATION_LOG"
GRACE_PERIOD_VARIABLE: Final = "FINETUNE_GRACE_PERIOD_SECONDS"
"""In every pod: the seconds from SIGTERM to SIGKILL, `pod.terminationGracePeriodSeconds`; absent in local runs."""
JUDGE_KEY_VARIABLE: Final = "OPENAI_API_KEY"
"""The key of evaluation.judge, from the Secret of credentials.judge, under the name that clients of such endpoints read."""
HANG_SECONDS_VARIABLE: Final = "FINETUNE_HANG_SECONDS"
"""For `pod.env`: how long at least a step may take before its rank counts as one that hangs, instead of 120 s."""
NODE_VARIABLE: Final = "FINETUNE_NODE"
"""In every pod: the name of its node."""
TOKEN_AUDIENCE: Final = GROUP
REGISTRY_DIRECTORY: Final = "/var/run/finetune-operator/registry"
REGISTRY_VARIABLE: Final = "DOCKER_CONFIG"
"""Names the folder with the logins for OCI registries, for us as for every other client of them."""
REGISTRY_SECRET_KEY: Final = ".dockerconfigjson"  # noqa: S105 - the key that Kubernetes keeps logins under
REGISTRY_CONFIG_FILE: Final = "config.json"
REGISTRY_CA_FILE: Final = "ca.crt"
TOKEN_DIRECTORY: Final = "/var/run/secrets/finetune-operator.dev"  # noqa: S105 - a path
TOKEN_PATH: Final = f"{TOKEN_DIRECTORY}/token"

RENDEZVOUS_PORT: Final = 29500
METRICS_PORT: Final = 9400
"""Rank r of a pod serves /metrics on this port + its local rank."""
PROGRESS_PORT: Final = 8443

METRICS_PREFIX: Final = "finetune_"
OPERATOR_METRICS_PREFIX: Final = "finetune_operator_"

ATTEMPTS_KEPT: Final = 5
"""How many attempts `status.attempts` shows; names and labels carry the number for ever."""


def progress_path(namespace: str, name: str, what: str) -> str:
    """Return the path that pods POST to; `what` is `progress` or `inspection`."""
    return f"/apis/{API_VERSION}/namespaces/{namespace}/{PLURAL}/{name}/{what}"
