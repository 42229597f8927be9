"""One sequence of requests whose answers must be the same from the fake API server and from a real one.

`await transcript(api, namespace)` runs it and returns a line per request: the error's name, or the parts of the answer
that the controller relies on. The unit tests keep the fake's transcript; the cluster tests compare it with a real server's.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

from finetune_operator.api.constants import FIELD_MANAGER, PROGRESS_FIELD_MANAGER
from finetune_operator.controller.kube import (
    CONFIG_MAPS,
    EVENTS,
    FINETUNE_JOBS,
    JOBS,
    LEASES,
    SERVICES,
    Api,
    ApiError,
    Body,
    NotFound,
    Resource,
)
from finetune_operator.testing.builders import config_map, finetune_job, indexed_job, owned_by

TIME = "2026-01-01T00:00:00Z"
COLLECTED_SECONDS = 60.0
"""How long the real garbage collector may take."""


class _Recorder:
    """Runs requests and writes down what the controller would see of them."""

    def __init__(self, api: Api, namespace: str) -> None:
        self.api = api
        self.namespace = namespace
        self.lines: list[str] = []
        self._versions: dict[tuple[str, str], str] = {}

    async def note(
        self, what: str, request: Awaitable[Body | None], pick: Callable[[Body], Any] = lambda body: None
    ) -> Body:
        """Run one request and note its outcome; return the answer, or nothing after an error."""
        try:
            body = await request
        except ApiError as error:
            self.lines.append(f"{what}: {type(error).__name__} {error.status}")
            return {}
        if body is None:
            self.lines.append(f"{what}: done")
            return {}
        key = (body["kind"], body["metadata"].get("name", ""))
        version = body["metadata"].get("resourceVersion", "")
        moved = "moved" if self._versions.get(key) != version else "unmoved"
        self._versions[key] = version
        self.lines.append(f"{what}: {moved} {json.dumps(pick(body), sort_keys=True)}")
        return body

    async def gone(self, what: str, resource: Resource, name: str) -> None:
        """Wait until an object is collected."""
        for _ in range(int(COLLECTED_SECONDS / 0.25)):
            try:
                await self.api.get(resource, self.namespace, name)
            except NotFound:
                self.lines.append(f"{what}: collected")
                return
            await asyncio.sleep(0.25)
        self.lines.append(f"{what}: still there")


async def transcript(api: Api, namespace: str) -> list[str]:
    """Run the scenario in an empty namespace that has the CRD; return what happened."""
    recorder = _Recorder(api, namespace)
    await _config_maps(recorder)
    owner = await _status(recorder)
    await _children(recorder, owner)
    await _others(recorder)
    await _end(recorder, owner)
    return recorder.lines


async def _config_maps(recorder: _Recorder) -> None:
    api, namespace = recorder.api, recorder.namespace

    def files(data: dict[str, str], **options: Any) -> Body:
        return config_map("files", data, namespace=namespace, immutable=False, **options)

    def data(body: Body) -> Any:
        return {"data": body.get("data"), "labels": body["metadata"].get("labels")}

    await recorder.note("apply", api.apply(files({"x": "1", "y": "2"})), data)
    await recorder.note("apply the same", api.apply(files({"x": "1", "y": "2"})), data)
    await recorder.note("apply without y", api.apply(files({"x": "1"})), data)
    await recorder.note("another adds z", api.apply(files({"z": "3"}), manager="another"), data)
    await recorder.note("another shares x", api.apply(files({"z": "3", "x": "1"}), manager="another"), data)
    await recorder.note("we leave x", api.apply(files({"y": "4"})), data)
    await recorder.note("conflict on z", api.apply(files({"y": "4", "z": "5"}), force=False), data)
    await recorder.note("force z", api.apply(files({"y": "4", "z": "5"})), data)
    await recorder.note("another leaves all", api.apply(files({}), manager="another"), data)
    await recorder.note("add a label", api.apply(files({"y": "4", "z": "5"}, labels={"a": "b"})), data)
    await recorder.note("leave the label", api.apply(files({"y": "4", "z": "5"})), data)
    wrong = files({"y": "6"})
    wrong["metadata"]["uid"] = "11111111-1111-4111-8111-111111111111"
    await recorder.note("apply for another uid", api.apply(wrong), data)
    wrong["metadata"]["name"] = "nothing"
    await recorder.note("apply for a uid that is not there", api.apply(wrong), data)
    await recorder.note("create what is there", api.create(files({})), data)
    old = await recorder.note(
        "create", api.create(config_map("put", {"x": "1"}, namespace=namespace, immutable=False)), data
    )
    await recorder.note("replace", api.replace({**old, "data": {"x": "2"}}), data)
    await recorder.note("replace from an old version", api.replace({**old, "data": {"x": "3"}}), data)
    fixed = config_map("fixed", {"x": "1"}, namespace=namespace)
    await recorder.note("apply immutable", api.apply(fixed), data)
    await recorder.note("apply immutable again", api.apply(fixed), data)
    await recorder.note("change immutable", api.apply({**fixed, "data": {"x": "2"}}), data)
    await recorder.note("get what is not there", api.get(CONFIG_MAPS, namespace, "nothing"))
    await recorder.note(
        "delete with another uid", api.delete(CONFIG_MAPS, namespace, "put", uid="11111111-1111-4111-8111-111111111111")
    )
    await recorder.note("delete", api.delete(CONFIG_MAPS, namespace, "put"))
    await recorder.note("delete again", api.delete(CONFIG_MAPS, namespace, "put"))
    for labels, fields in (("a=b", ""), ("!a", "metadata.name=files"), ("a", ""), ("", "metadata.name=fixed")):
        listing = await api.list(CONFIG_MAPS, namespace, labels=labels, fields=fields)
        recorder.lines.append(f"list {labels} {fields}: {[item['metadata']['name'] for item in listing.items]}")


async def _status(recorder: _Recorder) -> Body:
    api, namespace = recorder.api, recorder.namespace

    def job(**parts: Any) -> Body:
        return finetune_job("tune", namespace, **parts)

    def condition(kind: str, status: str = "True") -> Body:
        return {
            "type": kind,
            "status": status,
            "reason": "Accepted",
            "message": "",
            "lastTransitionTime": TIME,
            "observedGeneration": 1,
        }

    def shown(body: Body) -> Any:
        status = body.get("status", {})
        names = [f"{found['type']}={found['status']}" for found in status.get("conditions", ())]
        rest = {name: value for name, value in status.items() if name != "conditions"}
        return {"generation": body["metadata"]["generation"], "conditions": names, **rest}

    async def write(what: str, status: Body, manager: str = FIELD_MANAGER, **parts: Any) -> Body:
        return await recorder.note(
            what, api.apply(job(status=status, **parts), subresource="status", manager=manager), shown
        )

    await write("status of what is not there", {"state": "Pending"})
    owner = await recorder.note("apply a job with a status", api.apply(job(status={"state": "Complete"})), shown)
    both = {"state": "Running", "conditions": [condition("Accepted"), condition("Running")]}
    await write("status", both)
    await write("status again", both)
    await write("progress", {"progress": {"step": 5, "steps": "5/10"}}, PROGRESS_FIELD_MANAGER)
    await write("status without a condition", {"state": "Running", "conditions": [condition("Accepted")]})
    await write("status of another manager", {"conditions": [condition("Stalled")]}, "another")
    await write("status with changed condition", {"state": "Running", "conditions": [condition("Accepted", "False")]})
    await write("progress goes on", {"progress": {"step": 6}}, PROGRESS_FIELD_MANAGER)
    await write("status with a spec", {"state": "Running"}, spec={"run": {"suspend": True}})
    await write("status of another uid", {"state": "Failed"}, metadata={"uid": "11111111-1111-4111-8111-111111111111"})
    current = await write("status", {"state": "Running"})
    old = {"resourceVersion": owner["metadata"]["resourceVersion"]}
    await write("status from an old version", {"state": "Failed"}, metadata=old)
    newest = {"resourceVersion": current["metadata"]["resourceVersion"]}
    await write("status from the newest version", {"state": "Failed"}, metadata=newest)
    await write("empty lists", {"state": "Failed", "attempts": []})
    await recorder.note("label", api.apply(job(metadata={"labels": {"a": "b"}})), shown)
    await recorder.note("suspend", api.apply(job(spec={"run": {"suspend": True}})), shown)
    return owner


async def _children(recorder: _Recorder, owner: Body) -> None:
    api, namespace = recorder.api, recorder.namespace
    batch_job = indexed_job("tune", 1, namespace=namespace)
    batch_job["spec"]["suspend"] = True
    batch_job = owned_by(owner, batch_job)

    def shown(body: Body) -> Any:
        container = body["spec"]["template"]["spec"]["containers"][0]
        return {"suspend": body["spec"].get("suspend"), "image": container["image"], "env": container.get("env")}

    await recorder.note("apply a batch job", api.apply(batch_job), shown)
    part = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "tune-1", "namespace": namespace}}
    resumed = {**part, "spec": {"suspend": False}}
    await recorder.note(
        "resume it under another name",
        api.apply(resumed, manager=f"{FIELD_MANAGER}-suspend"),
        lambda body: shown(body)["suspend"],
    )
    other = json.loads(json.dumps(batch_job))
    other["spec"]["suspend"] = False
    other["spec"]["template"]["spec"]["containers"][0]["image"] = "trainer:2"
    await recorder.note("another image", api.apply(other), shown)
    spec = {"clusterIP": "None", "selector": {"a": "b"}, "ports": [{"name": "r", "port": 29500, "protocol": "TCP"}]}
    metadata = {"name": "tune-1", "namespace": namespace}
    service = owned_by(owner, {"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": spec})
    await recorder.note("apply a service", api.apply(service), lambda body: body["spec"]["selector"])
    changed = {**service, "spec": {**spec, "selector": {"c": "d"}}}
    await recorder.note("another selector", api.apply(changed), lambda body: body["spec"]["selector"])


async def _others(recorder: _Recorder) -> None:
    api, namespace = recorder.api, recorder.namespace
    event = {
        "apiVersion": EVENTS.api_version, "kind": EVENTS.kind, "metadata": {"name": "tune.1", "namespace": namespace},
        "eventTime": "2026-01-01T00:00:00.000000Z", "reportingController": "finetune-operator.dev/operator",
        "reportingInstance": "operator-0", "action": "Reconcile", "type": "Normal", "reason": "Planned", "note": "planned",
        "regarding": {"apiVersion": FINETUNE_JOBS.api_version, "kind": FINETUNE_JOBS.kind, "namespace": namespace, "name": "tune"},
    }  # fmt: skip
    await recorder.note("event", api.apply(event), lambda body: body["note"])
    series = {"count": 2, "lastObservedTime": "2026-01-01T00:01:00.000000Z"}
    await recorder.note("event again", api.apply({**event, "series": series}), lambda body: body["series"]["count"])
    lease = {
        "apiVersion": LEASES.api_version,
        "kind": LEASES.kind,
        "metadata": {"name": "lease", "namespace": namespace},
        "spec": {"holderIdentity": "one"},
    }
    taken = await recorder.note("lease", api.create(lease), lambda body: body["spec"]["holderIdentity"])
    await recorder.note(
        "renew", api.replace({**taken, "spec": {"holderIdentity": "two"}}), lambda body: body["spec"]["holderIdentity"]
    )
    await recorder.note("renew an old one", api.replace(taken), lambda body: body["spec"]["holderIdentity"])


async def _end(recorder: _Recorder, owner: Body) -> None:
    await recorder.note(
        "delete the job", recorder.api.delete(FINETUNE_JOBS, recorder.namespace, "tune", uid=owner["metadata"]["uid"])
    )
    await recorder.gone("its batch job", JOBS, "tune-1")
    await recorder.gone("its service", SERVICES, "tune-1")
