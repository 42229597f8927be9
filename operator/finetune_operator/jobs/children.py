"""The objects of a job: inspect Job, attempt (ConfigMap, Service, Job), publish Job. The same input gives the same bytes.

An attempt's Job fails at once when one container fails or Kubernetes takes a pod away (`FailJob`), since a restart is a new attempt with fresh pods.
Two exit codes are counted instead: 49 and 143, of a pod that was stopped by SIGTERM. When a Job is suspended its pods end like that, and the Job
controller (1.36) applies `FailJob` to every failed pod that it still sees, also to those it has just deleted itself for the suspension: the
Job would fail now and then because it was suspended. A counted failure of any other pod exceeds backoffLimit 0 just as fast.
"""

from __future__ import annotations

from typing import Any, Final

from finetune_operator.api.constants import (
    COMPONENT_INSPECT,
    COMPONENT_PUBLISH,
    COMPONENT_TRAIN,
    INSPECTION_FILE,
    INSPECTION_KEY_LABEL,
    PLAN_DIRECTORY,
    PLAN_FILE,
    PLAN_PATH,
    REQUEST_ANNOTATION,
    REQUEST_PATH,
)
from finetune_operator.api.exit_codes import ExitCode
from finetune_operator.api.inspection import InspectionReport, InspectionRequest, inspection_key
from finetune_operator.api.job import FineTuneJob, ObjectMeta
from finetune_operator.api.plan import GIB, AttemptFile
from finetune_operator.api.trainer import AUTHORITY_FILE
from finetune_operator.jobs.causes import SIGTERM_EXIT_CODE
from finetune_operator.jobs.config_maps import config_map_mounts, config_map_volumes
from finetune_operator.jobs.decisions import RenderSettings
from finetune_operator.jobs.model_cache import cache_volume
from finetune_operator.jobs.names import (
    attempt_name,
    child,
    inspect_name,
    inspection_name,
    labels,
    publish_name,
)
from finetune_operator.jobs.own_script import KEEPER_MEMORY, with_script
from finetune_operator.jobs.pods import CONTAINER_NAME, PodShape, disk_request, mebibytes, millicores, pod_template
from finetune_operator.planner.gpu_labels import gpu_node_labels
from finetune_operator.planner.nodes import GPU_TOLERATION
from finetune_operator.planner.publication import publication_needs

Body = dict[str, Any]

FINAL_CODES: Final = frozenset({ExitCode.BAD_SPEC, ExitCode.BAD_DATA, ExitCode.REQUIREMENT_NOT_MET})
"""With these an inspect or publish pod says that another try cannot help."""
INSPECT_BACKOFF_LIMIT: Final = 6
PUBLISH_BACKOFF_LIMIT: Final = 4
INSPECT_TTL_SECONDS: Final = 3600
"""A finished inspect Job is only of use for its log."""
_INSPECT_MEMORY: Final = 2 * GIB
_TRACE_MEMORY: Final = 4 * GIB
"""torch, transformers and a model on fake tensors took 0.9 GiB with 61 layers of 256 experts (DeepSeek V3.2), beside what reading rows takes."""
_EMBEDDING_MEMORY: Final = 8 * GIB
"""2 GiB of weights as float32 are 4 GiB, beside torch (0.9 GiB) and 200,000 vectors of at most some thousand dimensions as float16."""
_INSPECT_WORK: Final = 2 * GIB


def inspect_job(job: FineTuneJob, settings: RenderSettings, *, trace: bool = False) -> Body:
    """Return the Job that reads the model's config and every data row; it asks for no GPU.

    With `trace` it also measures the model on fake tensors, which takes the trainer's image.
    """
    meta = job.metadata
    request = InspectionRequest(
        namespace=meta.namespace,
        name=meta.name,
        uid=meta.uid,
        spec=job.spec,
        key=inspection_key(meta.namespace, job.spec),
        progress=settings.progress,
    )
    marks = labels(meta.name, COMPONENT_INSPECT)
    embeds = job.spec.compares_meanings
    memory = _EMBEDDING_MEMORY if embeds else _TRACE_MEMORY if trace else _INSPECT_MEMORY
    field_path = f"metadata.annotations['{REQUEST_ANNOTATION}']"
    shape = PodShape(
        image=settings.trainer_image if trace or embeds else settings.inspect_image,
        arguments=("inspect", *(("--trace",) if trace else ()), "--job", REQUEST_PATH),
        labels=marks,
        annotations={REQUEST_ANNOTATION: request.model_dump_json(by_alias=True, exclude_none=True)},
        resources={
            "requests": {"cpu": millicores(1000 if trace or embeds else 250), "memory": mebibytes(memory // 4)},
            "limits": {"memory": mebibytes(memory)},
        },
        work_bytes=_INSPECT_WORK,
        volumes=(
            {
                "name": "request",
                "downwardAPI": {
                    "items": [{"path": REQUEST_PATH.rpartition("/")[2], "fieldRef": {"fieldPath": field_path}}]
                },
            },
            *config_map_volumes(job.spec),
        ),
        mounts=({"name": "request", "mountPath": PLAN_DIRECTORY, "readOnly": True}, *config_map_mounts(job.spec)),
        logs_in=True,
        judges=job.spec.judges_rows,
    )
    content = {
        "completions": 1,
        "parallelism": 1,
        "backoffLimit": INSPECT_BACKOFF_LIMIT,
        "ttlSecondsAfterFinished": INSPECT_TTL_SECONDS,
        "podReplacementPolicy": "Failed",
        "podFailurePolicy": {"rules": [_on_exit_codes("FailJob", "In", *FINAL_CODES)]},
        "template": pod_template(job.spec, settings, shape),
    }
    return child(job.metadata, "batch/v1", "Job", inspect_name(meta.name), marks, {"spec": content})


def inspection_config_map(job: ObjectMeta, report: InspectionReport) -> Body:
    """Return the ConfigMap that keeps a report; equal jobs of the namespace find it by its key."""
    marks = {**labels(job.name, COMPONENT_INSPECT), INSPECTION_KEY_LABEL: report.key}
    data = {INSPECTION_FILE: report.model_dump_json(by_alias=True, exclude_none=True)}
    return child(job, "v1", "ConfigMap", inspection_name(job.name), marks, {"data": data})


def attempt_objects(job: FineTuneJob, file: AttemptFile, settings: RenderSettings) -> tuple[Body, ...]:
    """Return an attempt's objects in the order of their making; the Job comes last, so that its presence proves the others."""
    config_map = attempt_config_map(job, file)
    if file.plan.pods > 1:
        return (config_map, _rendezvous_service(job, file), attempt_job(job, file, settings))
    return (config_map, attempt_job(job, file, settings))


def attempt_config_map(job: FineTuneJob, file: AttemptFile) -> Body:
    """Return the immutable ConfigMap with what the attempt runs by."""
    data = {PLAN_FILE: file.model_dump_json(by_alias=True, exclude_none=True)}
    if file.spec.trainer is not None and file.progress is not None:
        data[AUTHORITY_FILE] = file.progress.certificate_authority
    marks = labels(file.name, COMPONENT_TRAIN, file.attempt)
    content = {"immutable": True, "data": data}
    return child(job.metadata, "v1", "ConfigMap", attempt_name(file.name, file.attempt), marks, content)


def _rendezvous_service(job: FineTuneJob, file: AttemptFile) -> Body:
    marks = labels(file.name, COMPONENT_TRAIN, file.attempt)
    port = {"name": "rendezvous", "port": file.rendezvous_port, "protocol": "TCP"}
    # Ranks look for one another before any of them is ready.
    content = {"spec": {"clusterIP": "None", "publishNotReadyAddresses": True, "selector": marks, "ports": [port]}}
    return child(job.metadata, "v1", "Service", attempt_name(file.name, file.attempt), marks, content)


def attempt_job(job: FineTuneJob, file: AttemptFile, settings: RenderSettings) -> Body:
    """Return the Indexed Job of one attempt."""
    plan, spec = file.plan, file.spec
    name = attempt_name(file.name, file.attempt)
    marks = labels(file.name, COMPONENT_TRAIN, file.attempt)
    gpu = plan.accelerator == "gpu"
    amounts = {"memory": mebibytes(plan.resources.memory_bytes)}
    # Limits as well as requests: Kubernetes takes no other for devices.
    amounts |= {device: str(count) for device, count in spec.pod.devices.items()}
    if gpu:
        amounts[plan.gpu_resource] = str(plan.resources.gpus)
    disk = plan.resources.ephemeral_storage_bytes
    requests = {"cpu": millicores(plan.resources.cpu_millicores), **disk_request(disk), **amounts}
    threads = max(1, plan.resources.cpu_millicores // 1000 // plan.processes_per_pod)
    extra: Body = {"subdomain": name} if plan.pods > 1 else {}
    if spec.scheduling.priority_class:
        extra["priorityClassName"] = spec.scheduling.priority_class
    shape = PodShape(
        image=settings.trainer_image,
        arguments=("launch", "--plan", PLAN_PATH),
        labels=marks,
        annotations={"prometheus.io/scrape": "true"},
        # No CPU limit: throttled data loading and collective calls slow down every rank of the job.
        resources={"requests": requests, "limits": amounts},
        work_bytes=disk,
        environment={"OMP_NUM_THREADS": str(threads)},
        judges=True,
        ports=tuple(
            {"name": f"metrics-{rank}", "containerPort": file.metrics_port + rank, "protocol": "TCP"}
            for rank in range(plan.processes_per_pod)
        ),
        volumes=(
            _plan_volume(name),
            {
                "name": "shared-memory",
                "emptyDir": {"medium": "Memory", "sizeLimit": mebibytes(plan.resources.shared_memory_bytes)},
            },
            *config_map_volumes(spec),
        ),
        mounts=(
            _PLAN_MOUNT,
            {"name": "shared-memory", "mountPath": "/dev/shm"},  # noqa: S108 - a mount of the pod's own
            *config_map_mounts(spec),
        ),
        node_selector=gpu_node_labels(plan.gpu_product, plan.gpu_resource) if gpu and plan.gpu_product else {},
        tolerations=(GPU_TOLERATION.to_json_dict(),) if gpu else (),
        model_cache=cache_volume(spec, file.namespace, settings),
        tracks=True,
        extra=extra,
    )
    if spec.trainer is not None:
        shape = with_script(shape, spec.trainer, file, settings)
    content = {
        "completionMode": "Indexed",
        "completions": plan.pods,
        "parallelism": plan.pods,
        "backoffLimit": 0,
        "suspend": job.spec.run.suspend,
        "podReplacementPolicy": "Failed",
        "podFailurePolicy": _any_failure(),
        "template": pod_template(spec, settings, shape),
    }
    return child(job.metadata, "batch/v1", "Job", name, marks, {"spec": content})


def publish_job(job: FineTuneJob, file: AttemptFile, settings: RenderSettings) -> Body:
    """Return the Job that verifies the final checkpoint of `file`'s attempt, merges and uploads; repeatable."""
    cache = cache_volume(file.spec, file.namespace, settings)
    needs = publication_needs(file.spec, file.inspection.model, file.plan, cached=cache is not None)
    disk = needs.disk_bytes if file.plan.resources.ephemeral_storage_bytes else 0
    is_own = file.spec.trainer is not None
    memory = {"memory": mebibytes(KEEPER_MEMORY if is_own else needs.memory_bytes)}
    marks = labels(file.name, COMPONENT_PUBLISH, file.attempt)
    shape = PodShape(
        image=settings.inspect_image if is_own else settings.trainer_image,
        arguments=("publish", "--plan", PLAN_PATH),
        labels=marks,
        resources={
            "requests": {"cpu": millicores(1000), **disk_request(disk), **memory},
            "limits": memory,
        },
        work_bytes=disk,
        environment={"OMP_NUM_THREADS": "1"},
        volumes=(_plan_volume(attempt_name(file.name, file.attempt)),),
        mounts=(_PLAN_MOUNT,),
        model_cache=cache,
        logs_in=True,
    )
    content = {
        "completions": 1,
        "parallelism": 1,
        "backoffLimit": PUBLISH_BACKOFF_LIMIT,
        "suspend": job.spec.run.suspend,
        "podReplacementPolicy": "Failed",
        "podFailurePolicy": {"rules": [_on_exit_codes("FailJob", "In", *FINAL_CODES)]},
        "template": pod_template(file.spec, settings, shape),
    }
    return child(job.metadata, "batch/v1", "Job", publish_name(file.name), marks, {"spec": content})


_PLAN_MOUNT: Final = {"name": "plan", "mountPath": PLAN_DIRECTORY, "readOnly": True}


def _plan_volume(config_map: str) -> Body:
    return {"name": "plan", "configMap": {"name": config_map}}


def _on_exit_codes(action: str, operator: str, *codes: int) -> Body:
    requirement = {"containerName": CONTAINER_NAME, "operator": operator, "values": sorted(int(code) for code in codes)}
    return {"action": action, "onExitCodes": requirement}


def _any_failure() -> Body:
    disrupted = {"action": "FailJob", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}
    stopped = _on_exit_codes("Count", "In", ExitCode.TERMINATED, SIGTERM_EXIT_CODE)
    return {"rules": [disrupted, stopped, _on_exit_codes("FailJob", "NotIn", ExitCode.OK)]}
