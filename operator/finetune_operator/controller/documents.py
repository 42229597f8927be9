"""What a job's ConfigMaps tell: the inspection's report and the file that each attempt runs by.

They are read on demand, not watched: attempts are immutable, and an inspection is written once. Parsed documents of the
jobs that were looked at last are kept, within a bound of bytes.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from pydantic import ValidationError

from finetune_operator.api.constants import INSPECTION_FILE, INSPECTION_KEY_LABEL, JOB_LABEL, PLAN_FILE
from finetune_operator.api.inspection import InspectionReport
from finetune_operator.api.plan import AttemptFile
from finetune_operator.controller.cache import JobKey, controller_uid
from finetune_operator.controller.kube import CONFIG_MAPS, Api, Body
from finetune_operator.jobs.names import inspection_name
from finetune_operator.jobs.times import moment_of

KEPT_BYTES: Final = 16 * 2**20
"""Of JSON text; parsed it takes about five times as much."""


class UnreadableDocument(Exception):
    """A ConfigMap of ours whose content is not what we write: somebody edited it, or another version wrote it."""


@dataclass(frozen=True)
class Documents:
    """The documents of one job."""

    inspection: InspectionReport | None = None
    attempts: Mapping[int, AttemptFile] = field(default_factory=dict)
    names: frozenset[str] = frozenset()
    """Names of the ConfigMaps that belong to the job."""
    foreign: tuple[str, ...] = ()
    """Names of those that bear its label and belong to someone else."""


@dataclass(frozen=True)
class _Kept:
    uid: str
    inspect_version: str
    documents: Documents
    size: int


class DocumentStore:
    """Reads and remembers."""

    def __init__(self, api: Api, *, kept_bytes: int = KEPT_BYTES) -> None:
        self._api = api
        self._kept_bytes = kept_bytes
        self._kept: OrderedDict[JobKey, _Kept] = OrderedDict()
        self._size = 0

    async def of_job(self, key: JobKey, uid: str, inspect_version: str) -> Documents:
        """Return the documents of the job with `uid`.

        Args:
            key: The job.
            uid: Its uid; a job created again has nothing of its predecessor.
            inspect_version: resourceVersion of its inspect Job: when that changed, the report may be there, or be new.
        """
        kept = self._kept.get(key)
        if kept and kept.uid == uid and kept.inspect_version == inspect_version:
            self._kept.move_to_end(key)
            return kept.documents
        listing = await self._api.list(CONFIG_MAPS, key.namespace, labels=f"{JOB_LABEL}={key.name}")
        documents = read_documents(key, uid, listing.items)
        self.forget(key)
        # The report is what we wait for: until it is there, each look is a fresh one.
        if documents.inspection is not None:
            self._keep(key, _Kept(uid, inspect_version, documents, sum(_size(body) for body in listing.items)))
        return documents

    async def inspection_of_equals(self, namespace: str, digest: str) -> InspectionReport | None:
        """Return the newest report in the namespace about equal inputs, whichever job it was made for."""
        listing = await self._api.list(CONFIG_MAPS, namespace, labels=f"{INSPECTION_KEY_LABEL}={digest}")
        reports = [_parse_inspection(body) for body in listing.items if INSPECTION_FILE in (body.get("data") or {})]
        equal = (report for report in reports if report.key == digest)
        return max(equal, key=lambda report: moment_of(report.finished_at), default=None)

    def forget(self, key: JobKey) -> None:
        """Drop what is remembered of a job, because it was written or is gone."""
        kept = self._kept.pop(key, None)
        self._size -= kept.size if kept else 0

    def _keep(self, key: JobKey, kept: _Kept) -> None:
        self._kept[key] = kept
        self._size += kept.size
        while self._size > self._kept_bytes:
            self._size -= self._kept.popitem(last=False)[1].size


def read_documents(key: JobKey, uid: str, bodies: tuple[Body, ...]) -> Documents:
    """Sort ConfigMaps that bear a job's label into its own documents and those of others.

    Raises:
        UnreadableDocument: with the name of the ConfigMap and what to do.
    """
    inspection: InspectionReport | None = None
    attempts: dict[int, AttemptFile] = {}
    names, foreign = set(), []
    for body in bodies:
        name = body["metadata"]["name"]
        if controller_uid(body) != uid:
            foreign.append(name)
            continue
        names.add(name)
        data = body.get("data") or {}
        if name == inspection_name(key.name) and INSPECTION_FILE in data:
            inspection = _parse_inspection(body)
        elif PLAN_FILE in data:
            attempt = _parse_attempt(body)
            attempts[attempt.attempt] = attempt
    return Documents(inspection, attempts, frozenset(names), tuple(foreign))


def _parse_inspection(body: Body) -> InspectionReport:
    try:
        return InspectionReport.model_validate_json(body["data"][INSPECTION_FILE])
    except ValidationError as error:
        raise _unreadable(body, INSPECTION_FILE, error) from error


def _parse_attempt(body: Body) -> AttemptFile:
    try:
        return AttemptFile.model_validate_json(body["data"][PLAN_FILE])
    except ValidationError as error:
        raise _unreadable(body, PLAN_FILE, error) from error


def _unreadable(body: Body, file: str, error: ValidationError) -> UnreadableDocument:
    # Not the text of the error: it quotes the content.
    fields = ", ".join(".".join(map(str, problem["loc"])) for problem in error.errors()[:5])
    name = f"{body['metadata']['namespace']}/{body['metadata']['name']}"
    return UnreadableDocument(f"ConfigMap {name}, {file}: unreadable at {fields}; delete it to have it written again")


def _size(body: Body) -> int:
    return sum(len(text) for text in (body.get("data") or {}).values())
