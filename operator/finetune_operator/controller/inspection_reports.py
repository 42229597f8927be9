"""From the inspect pod's report to ConfigMap `<job>-inspection`, where the operator and later jobs find it."""

from __future__ import annotations

import logging
import re
from typing import Final

from finetune_operator.api.constants import (
    API_VERSION,
    COMPONENT_INSPECT,
    COMPONENT_LABEL,
    INSPECTION_FILE,
    INSPECTION_KEY_LABEL,
    JOB_LABEL,
    KIND,
)
from finetune_operator.api.inspection import InspectionReport
from finetune_operator.controller.kube import CONFIG_MAPS, Api, Body, NotFound

logger = logging.getLogger(__name__)

_LABEL_VALUE: Final = re.compile(r"^[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?$")


class NameTaken(Exception):
    """A ConfigMap of that name belongs to someone else: it is never touched."""


def inspection_config_map(job: Body, report: InspectionReport) -> Body:
    """Return the ConfigMap of a report; the FineTuneJob owns it.

    Raises:
        ValueError: the report's key cannot be a label, so that nothing could find it.
    """
    if not _LABEL_VALUE.match(report.key):
        raise ValueError("key: must be the `key` of the inspection request, 16 hexadecimal digits")
    metadata = job["metadata"]
    owner = {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "name": metadata["name"],
        "uid": metadata["uid"],
        "controller": True,
        "blockOwnerDeletion": True,
    }
    labels = {
        JOB_LABEL: metadata["name"],
        COMPONENT_LABEL: COMPONENT_INSPECT,
        INSPECTION_KEY_LABEL: report.key,
    }
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {
            "namespace": metadata["namespace"],
            "name": f"{metadata['name']}-inspection",
            "labels": labels,
            "ownerReferences": [owner],
        },
        "data": {INSPECTION_FILE: report.model_dump_json(by_alias=True, exclude_none=True)},
    }


async def store_inspection(api: Api, job: Body, report: InspectionReport) -> None:
    """Write the report's ConfigMap, over an older report of the same job.

    Raises:
        NameTaken: the name belongs to someone else.
        ValueError: the report cannot be stored.
        ApiError: the API server refuses or does not answer.
    """
    body = inspection_config_map(job, report)
    namespace, name, uid = body["metadata"]["namespace"], body["metadata"]["name"], job["metadata"]["uid"]
    try:
        owners = (await api.get(CONFIG_MAPS, namespace, name))["metadata"].get("ownerReferences") or ()
    except NotFound:
        owners = body["metadata"]["ownerReferences"]
    if not any(owner.get("uid") == uid for owner in owners):
        raise NameTaken(
            f"ConfigMap {namespace}/{name} belongs to someone else; delete or rename it, or give the job another name"
        )
    await api.apply(body)
    logger.info("inspection of %s/%s stored under key %s", namespace, job["metadata"]["name"], report.key)
