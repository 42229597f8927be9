"""From the inspect pod's report to ConfigMap `<job>-inspection`, where the operator and later jobs find it."""

from __future__ import annotations

import logging
import re
from typing import Final

from finetune_operator.api.inspection import InspectionReport
from finetune_operator.api.job import ObjectMeta
from finetune_operator.controller.cache import controller_uid
from finetune_operator.controller.kube import CONFIG_MAPS, Api, Body, NotFound
from finetune_operator.jobs.children import inspection_config_map

logger = logging.getLogger(__name__)

_LABEL_VALUE: Final = re.compile(r"^[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?$")


class NameTaken(Exception):
    """A ConfigMap of that name belongs to someone else: it is never touched."""


async def store_inspection(api: Api, job: Body, report: InspectionReport) -> None:
    """Write the report's ConfigMap, over an older report of the same job.

    Raises:
        NameTaken: the name belongs to someone else.
        ValueError: the report cannot be stored.
        ApiError: the API server refuses or does not answer.
    """
    if not _LABEL_VALUE.match(report.key):  # nothing could find it
        raise ValueError("key: must be the `key` of the inspection request, 16 hexadecimal digits")
    metadata = ObjectMeta.model_validate(job["metadata"])
    body = inspection_config_map(metadata, report)
    namespace, name = body["metadata"]["namespace"], body["metadata"]["name"]
    try:
        owner = controller_uid(await api.get(CONFIG_MAPS, namespace, name))
    except NotFound:
        owner = metadata.uid
    if owner != metadata.uid:
        raise NameTaken(
            f"ConfigMap {namespace}/{name} belongs to someone else; delete or rename it, or give the job another name"
        )
    await api.apply(body)
    logger.info("inspection of %s/%s stored under key %s", namespace, metadata.name, report.key)
