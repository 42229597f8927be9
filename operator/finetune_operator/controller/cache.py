"""What the watches have told, trimmed to what reconciling needs: jobs by key, batch Jobs by the job they belong to.

FineTuneJobs are kept as JSON bytes (a parsed one takes four times as much) and batch Jobs as `ChildJob` values, so that
5,000 jobs fit. Watch events and lists race with each other: an object replaces a cached one only when its
resourceVersion is not older, and a list removes only what was there before it was asked for.
"""

from __future__ import annotations

import json
import sys
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from finetune_operator.api.chains import named_jobs
from finetune_operator.api.constants import ATTEMPT_LABEL, COMPONENT_LABEL, JOB_LABEL, SPEC_HASH_ANNOTATION
from finetune_operator.api.reasons import ConditionType, JobState
from finetune_operator.controller.kube import FINETUNE_JOBS, JOBS, Body
from finetune_operator.jobs.observed import ChildCondition, ChildJob, ComponentName, SourceJob
from finetune_operator.jobs.times import moment_of

_COMPONENTS: Final[Mapping[str, ComponentName]] = {"inspect": "inspect", "train": "train", "publish": "publish"}
_LAST_APPLIED: Final = "kubectl.kubernetes.io/last-applied-configuration"


class JobKey(NamedTuple):
    """Namespace and name of a FineTuneJob: what the work queue holds."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True)
class CachedChild:
    """A batch Job with what tells whose it is and whether it changed."""

    job: ChildJob
    uid: str
    owner_uid: str
    resource_version: str


@dataclass(frozen=True, slots=True)
class _CachedJob:
    uid: str
    resource_version: str
    state: str
    sources: tuple[JobKey, ...]
    """The jobs that it names by ftj://, each once."""
    json: bytes


class Snapshot(NamedTuple):
    """What was cached of a kind before a list was asked for: name -> resourceVersion."""

    versions: Mapping[tuple[str, str], str]


class Cache:
    """See the module. `on_heard` is told the kind of every event and list, for the liveness probe."""

    def __init__(self, on_heard: Callable[[str], None] = lambda kind: None) -> None:
        self._on_heard = on_heard
        self._jobs: dict[JobKey, _CachedJob] = {}
        self._children: dict[JobKey, dict[str, CachedChild]] = {}
        self._dependents: dict[JobKey, set[JobKey]] = {}

    def put_job(self, event: str | None, body: Body) -> JobKey:
        """Take an event (ADDED, MODIFIED, DELETED; None for one of the first list) of a FineTuneJob; return its key."""
        self._on_heard(FINETUNE_JOBS.kind)
        return self._take_job(event, body)

    def put_child(self, event: str | None, body: Body) -> JobKey | None:
        """Take an event of a batch Job; return the key of the job it belongs to, if its labels name one."""
        self._on_heard(JOBS.kind)
        return self._take_child(event, body)

    def job(self, key: JobKey) -> Body | None:
        """Return the FineTuneJob, or None when there is none."""
        cached = self._jobs.get(key)
        body: Body | None = json.loads(cached.json) if cached else None
        return body

    def waiting_for(self, key: JobKey) -> tuple[JobKey, ...]:
        """Return the jobs that name this one by ftj:// and have not begun: a change of it may be what they wait for."""
        named = sorted(self._dependents.get(key, ()))
        return tuple(each for each in named if self._jobs[each].state == JobState.PENDING)

    def sources(self, key: JobKey) -> dict[str, SourceJob]:
        """Return the jobs that `key` names by ftj:// and that exist, by their names."""
        found = {}
        for source in self._jobs[key].sources if key in self._jobs else ():
            if (body := self.job(source)) is not None:
                found[source.name] = self._source_of(body, self._way(source, key))
        return found

    def _source_of(self, body: Body, waits_for: tuple[str, ...]) -> SourceJob:
        status = body.get("status") or {}
        holding = {found["type"] for found in status.get("conditions", ()) if found["status"] == "True"}
        return SourceJob(
            uid=body["metadata"]["uid"],
            state=_state(body),
            message=status.get("message", ""),
            result_uri=status.get("result", {}).get("uri") if ConditionType.COMPLETE in holding else None,
            has_failed=ConditionType.FAILED in holding,
            waits_for=waits_for,
        )

    def _way(self, start: JobKey, end: JobKey) -> tuple[str, ...]:
        """Return the names from job to job by which `start` waits for `end`; empty where it does not."""
        ways: deque[tuple[JobKey, tuple[str, ...]]] = deque([(start, ())])
        seen = {start}
        while ways:
            key, way = ways.popleft()
            cached = self._jobs.get(key)
            if cached is None or cached.state != JobState.PENDING:
                continue
            for source in cached.sources:
                if source == end:
                    return (*way, source.name)
                if source not in seen:
                    seen.add(source)
                    ways.append((source, (*way, source.name)))
        return ()

    def children(self, key: JobKey) -> tuple[CachedChild, ...]:
        """Return the batch Jobs that bear the job's label, by name; whose they are is for the reader to check."""
        return tuple(child for _, child in sorted(self._children.get(key, {}).items()))

    def drop_child(self, key: JobKey, child: CachedChild) -> None:
        """Drop a batch Job that turned out to be gone, unless something newer is known of that name."""
        self._drop_children({(key.namespace, child.job.name): child.resource_version})

    def job_keys(self) -> tuple[JobKey, ...]:
        """Return the keys of all jobs."""
        return tuple(self._jobs)

    def states(self) -> Counter[str]:
        """Return how many jobs are in which `status.state`; one that has none yet is Pending."""
        return Counter(cached.state for cached in self._jobs.values())

    def snapshot(self, kind: str) -> Snapshot:
        """Return what is cached of `kind` now; take it before asking for a list, and give it to `relist`."""
        if kind == FINETUNE_JOBS.kind:
            return Snapshot({(key.namespace, key.name): cached.resource_version for key, cached in self._jobs.items()})
        return Snapshot(
            {
                (key.namespace, name): child.resource_version
                for key, named in self._children.items()
                for name, child in named.items()
            }
        )

    def relist(self, kind: str, bodies: Iterable[Body], before: Snapshot) -> set[JobKey]:
        """Take a whole list; return the keys of jobs that lost something, which no watch had told."""
        self._on_heard(kind)
        listed: set[tuple[str, str]] = set()
        for body in bodies:
            listed.add((body["metadata"]["namespace"], body["metadata"]["name"]))
            if kind == FINETUNE_JOBS.kind:
                self._take_job(None, body)
            else:
                self._take_child(None, body)
        gone = {name: version for name, version in before.versions.items() if name not in listed}
        if kind == FINETUNE_JOBS.kind:
            return self._drop_jobs(gone)
        return self._drop_children(gone)

    def _take_job(self, event: str | None, body: Body) -> JobKey:
        metadata = body["metadata"]
        key = JobKey(metadata["namespace"], metadata["name"])
        cached = self._jobs.get(key)
        if event == "DELETED":
            # A list may have told of the name's next bearer before the watch tells of the old one's end.
            if cached and cached.uid == metadata["uid"]:
                self._forget_job(key)
        elif cached is None or not is_older(metadata["resourceVersion"], cached.resource_version):
            if cached is not None:
                self._forget_job(key)
            sources = tuple(dict.fromkeys(JobKey(key.namespace, name) for name in named_jobs(body)))
            self._jobs[key] = _CachedJob(
                metadata["uid"], metadata["resourceVersion"], _state(body), sources, _trimmed(body)
            )
            for source in sources:
                self._dependents.setdefault(source, set()).add(key)
        return key

    def _forget_job(self, key: JobKey) -> None:
        for source in self._jobs.pop(key).sources:
            dependents = self._dependents[source]
            dependents.discard(key)
            if not dependents:
                del self._dependents[source]

    def _take_child(self, event: str | None, body: Body) -> JobKey | None:
        metadata = body["metadata"]
        owner = (metadata.get("labels") or {}).get(JOB_LABEL)
        child = child_of(body)
        if not owner or child is None:
            return None
        key = JobKey(metadata["namespace"], owner)
        named = self._children.setdefault(key, {})
        cached = named.get(child.job.name)
        if event == "DELETED":
            if cached and cached.uid == child.uid:
                del named[child.job.name]
        elif cached is None or not is_older(child.resource_version, cached.resource_version):
            named[child.job.name] = child
        if not named:
            del self._children[key]
        return key

    def _drop_jobs(self, gone: Mapping[tuple[str, str], str]) -> set[JobKey]:
        dropped = set()
        for name, version in gone.items():
            key = JobKey(*name)
            cached = self._jobs.get(key)
            if cached and cached.resource_version == version:
                self._forget_job(key)
                dropped.add(key)
        return dropped

    def _drop_children(self, gone: Mapping[tuple[str, str], str]) -> set[JobKey]:
        dropped = set()
        for key, named in list(self._children.items()):
            for name, child in list(named.items()):
                if gone.get((key.namespace, name)) == child.resource_version:
                    del named[name]
                    dropped.add(key)
            if not named:
                del self._children[key]
        return dropped


def is_older(version: str, cached: str) -> bool:
    """Say whether a resourceVersion is older than another; unless both are numbers, the one that comes last counts."""
    return version.isdigit() and cached.isdigit() and int(version) < int(cached)


def _state(body: Body) -> str:
    return sys.intern(str((body.get("status") or {}).get("state") or "Pending"))


def _trimmed(body: Body) -> bytes:
    metadata = {name: value for name, value in body["metadata"].items() if name != "managedFields"}
    if annotations := metadata.get("annotations"):
        metadata["annotations"] = {name: value for name, value in annotations.items() if name != _LAST_APPLIED}
    return json.dumps({**body, "metadata": metadata}, separators=(",", ":")).encode()


def child_of(body: Body) -> CachedChild | None:
    """Return a batch Job as a value, or None when its labels are not those of our children."""
    metadata = body["metadata"]
    labels = metadata.get("labels") or {}
    component = _COMPONENTS.get(labels.get(COMPONENT_LABEL, ""))
    attempt = labels.get(ATTEMPT_LABEL)
    if component is None or (attempt is not None and not attempt.isdigit()):
        return None
    spec, status = body.get("spec") or {}, body.get("status") or {}
    job = ChildJob(
        name=metadata["name"],
        component=component,
        attempt=int(attempt) if attempt else None,
        created=moment_of(metadata["creationTimestamp"]),
        suspended=bool(spec.get("suspend")),
        active=status.get("active") or 0,
        terminating=status.get("terminating") or 0,
        conditions=tuple(_condition(condition) for condition in status.get("conditions") or ()),
        completed=moment_of(status["completionTime"]) if status.get("completionTime") else None,
        spec_hash=(metadata.get("annotations") or {}).get(SPEC_HASH_ANNOTATION, ""),
        deleting="deletionTimestamp" in metadata,
    )
    return CachedChild(job, metadata["uid"], controller_uid(body), metadata["resourceVersion"])


def _condition(condition: Mapping[str, Any]) -> ChildCondition:
    moved = condition.get("lastTransitionTime")
    return ChildCondition(
        type=condition["type"],
        status=condition["status"],
        reason=condition.get("reason", ""),
        message=condition.get("message", ""),
        last_transition_time=moment_of(moved) if moved else None,
    )


def controller_uid(body: Body) -> str:
    """Return the uid of the object's controller, or nothing when it has none."""
    owners = body["metadata"].get("ownerReferences") or ()
    return next((owner["uid"] for owner in owners if owner.get("controller")), "")
