"""The volume in which a job's pods find and leave the base model (`spec.model.cache`), and why an installation may refuse it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from finetune_operator.api.constants import MODEL_CACHE_DIRECTORY
from finetune_operator.api.spec import FineTuneJobSpec
from finetune_operator.jobs.decisions import RenderSettings

Body = dict[str, Any]


@dataclass(frozen=True)
class CacheVolume:
    """A pod's volume and where its container mounts it."""

    volume: Body
    mount: Body


def cache_volume(spec: FineTuneJobSpec, namespace: str, settings: RenderSettings) -> CacheVolume | None:
    """Return the volume of models; None where every pod downloads its own.

    A node's folder is shared by the jobs of one namespace only: code of a job (model.trustRemoteCode) could else change the models of others.
    """
    cache = spec.model.cache
    if cache is None:
        return None
    mount: Body = {"name": "model-cache", "mountPath": MODEL_CACHE_DIRECTORY}
    if cache.persistent_volume_claim is not None:
        return CacheVolume(
            {"name": "model-cache", "persistentVolumeClaim": {"claimName": cache.persistent_volume_claim}}, mount
        )
    # Never DirectoryOrCreate: the kubelet would make a folder of root's that no pod of ours can write to.
    folder = {"path": settings.node_cache_path, "type": "Directory"}
    return CacheVolume({"name": "model-cache", "hostPath": folder}, {**mount, "subPath": namespace})


def why_refused(spec: FineTuneJobSpec, settings: RenderSettings) -> str:
    """Return why this installation cannot give the job its cache, and what to do; empty when it can."""
    if spec.model.cache is None or not spec.model.cache.node or settings.node_cache_path:
        return ""
    return (
        "spec.model.cache.node: this installation allows no folders of nodes (hostPath volumes); "
        "use model.cache.persistentVolumeClaim, or have modelCache.nodePath set in the chart's values"
    )
