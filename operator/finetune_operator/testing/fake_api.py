"""An API server in memory with the semantics that the controller relies on, faults on demand, and a log of every call.

What it does like the real one: server-side apply with field managers, resourceVersion moved only by a change, status as
a separate subresource, generation, uid, owner references, finalizers, optimistic PUT, selectors, immutable ConfigMaps and
Job templates, and the errors 404, 409 and 422. What it leaves out: schemas, defaults, admission, RBAC and the other controllers.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, TypeVar

from finetune_operator.api.constants import FIELD_MANAGER
from finetune_operator.controller.clock import Clock
from finetune_operator.controller.kube import (
    ApiError,
    Body,
    Conflict,
    Invalid,
    Listing,
    NotFound,
    Resource,
    resource_of,
)
from finetune_operator.jobs.times import text_of
from finetune_operator.testing.calls import Call, Fault
from finetune_operator.testing.clock import FakeClock
from finetune_operator.testing.objects import (
    STATUS_KINDS,
    check_immutable,
    check_preconditions,
    comparable,
    dotted,
    identity,
    key_of,
    part,
    system_metadata,
)
from finetune_operator.testing.selectors import matches_fields, matches_labels
from finetune_operator.testing.server_side_apply import ManagerKey, Managers, Schema, apply, managed_fields, update

Answer = TypeVar("Answer")

_GENERATION_KINDS = frozenset({"FineTuneJob", "Job", "Pod"})


@dataclass
class _Stored:
    body: Body
    managers: Managers


class FakeApi:
    """`Api` in memory. `on_event` callbacks get (ADDED | MODIFIED | DELETED, object), as a watch would."""

    def __init__(self, clock: Clock | None = None, crds: Iterable[Mapping[str, Any]] = ()) -> None:
        self.clock: Clock = clock or FakeClock()
        self.calls: list[Call] = []
        self.tokens: dict[str, Body] = {}
        """Bearer token -> the `user` that a TokenReview of it answers with."""
        self.on_event: list[Callable[[str, Body], None]] = []
        self._objects: dict[tuple[str, str, str], _Stored] = {}
        self._faults: list[Fault] = []
        self._versions = itertools.count(1)
        self._uids = itertools.count(1)
        self._crd_schemas = {
            crd["spec"]["names"]["kind"]: crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"] for crd in crds
        }

    def fail(
        self,
        verb: str,
        error: ApiError,
        *,
        kind: str = "",
        skip: int = 0,
        times: int = 1,
        carried_out: bool = False,
    ) -> None:
        """Let the next `times` calls of `verb` (`*`: any) fail, after `skip` good ones; `carried_out` loses only the answer."""
        self._faults.append(Fault(verb, kind, error, skip, times, carried_out))

    def writes(self) -> list[Call]:
        """Return the calls that could have changed something."""
        return [call for call in self.calls if call.writes]

    def forget_calls(self) -> None:
        """Empty the call log."""
        self.calls.clear()

    async def apply(
        self, body: Body, *, manager: str = FIELD_MANAGER, subresource: str = "", force: bool = True
    ) -> Body:
        """Server-side apply."""
        return self._perform(
            self._call("apply", body, subresource, manager), lambda: self._apply(body, manager, subresource, force)
        )

    async def create(self, body: Body) -> Body:
        """POST."""
        return self._perform(self._call("create", body), lambda: self._create(body))

    async def replace(self, body: Body) -> Body:
        """PUT with optimistic locking."""
        return self._perform(self._call("replace", body), lambda: self._replace(body))

    async def delete(self, resource: Resource, namespace: str, name: str, *, uid: str = "") -> None:
        """Delete with its dependents."""
        call = Call("delete", resource.kind, namespace, name)
        self._perform(call, lambda: self._delete(resource, namespace, name, uid))

    async def get(self, resource: Resource, namespace: str, name: str) -> Body:
        """Read one object."""
        call = Call("get", resource.kind, namespace, name)
        return self._perform(call, lambda: self._read(resource, namespace, name))

    async def list(self, resource: Resource, namespace: str = "", *, labels: str = "", fields: str = "") -> Listing:
        """Read all that match."""
        call = Call("list", resource.kind, namespace, "")
        return self._perform(call, lambda: self._list(resource, namespace, labels, fields))

    def seed(self, body: Body, manager: str = "kubectl") -> Body:
        """Put an object (with its status) there as somebody else would, past call log and faults; return it."""
        key = key_of(body)
        stored = self._objects.get(key)
        live = deepcopy(stored.body) if stored else {}
        merged = deepcopy(body)
        merged["metadata"] = {**system_metadata(live), **merged["metadata"]}
        schema = self._schema(body["kind"])
        managers = update(schema, live, stored.managers if stored else {}, merged, (manager, "Update", ""))
        return self._store(key, merged, managers)

    def seed_status(
        self, resource: Resource, namespace: str, name: str, status: Body, manager: str = "kube-controller-manager"
    ) -> Body:
        """Replace the status of an object, as its own controller would."""
        stored = self._stored(resource, namespace, name)
        body = deepcopy(stored.body)
        body["status"] = deepcopy(status)
        managers = update(
            self._schema(resource.kind), stored.body, stored.managers, body, (manager, "Update", "status")
        )
        return self._store(key_of(body), body, managers)

    def find(self, resource: Resource, namespace: str, name: str) -> Body | None:
        """Return an object or None, past call log and faults."""
        stored = self._objects.get((resource.kind, namespace, name))
        return deepcopy(stored.body) if stored else None

    def names(self, resource: Resource) -> Sequence[str]:
        """Return the sorted names of all objects of a kind, past call log and faults."""
        return sorted(name for kind, _, name in self._objects if kind == resource.kind)

    def _call(self, verb: str, body: Body, subresource: str = "", manager: str = "") -> Call:
        metadata = body.get("metadata", {})
        return Call(verb, body["kind"], metadata.get("namespace", ""), metadata.get("name", ""), subresource, manager)

    def _perform(self, call: Call, action: Callable[[], Answer]) -> Answer:
        self.calls.append(call)
        for fault in self._faults:
            if fault.times > 0 and fault.verb in ("*", call.verb) and fault.kind in ("", call.kind):
                if fault.skip > 0:
                    fault.skip -= 1
                    continue
                fault.times -= 1
                if fault.carried_out:
                    action()
                raise fault.error
        return action()

    def _schema(self, kind: str) -> Schema:
        return Schema(kind, self._crd_schemas.get(kind))

    def _stored(self, resource: Resource, namespace: str, name: str) -> _Stored:
        key = (resource.kind, namespace if resource.namespaced else "", name)
        if key not in self._objects:
            raise NotFound(404, "NotFound", f'{resource.plural} "{name}" not found')
        return self._objects[key]

    def _read(self, resource: Resource, namespace: str, name: str) -> Body:
        return deepcopy(self._stored(resource, namespace, name).body)

    def _list(self, resource: Resource, namespace: str, labels: str, fields: str) -> Listing:
        bodies = [
            stored.body
            for (kind, where, _), stored in sorted(self._objects.items())
            if kind == resource.kind and namespace in ("", where)
        ]
        found = (body for body in bodies if matches_labels(body, labels) and matches_fields(body, fields))
        return Listing(tuple(deepcopy(body) for body in found))

    def _apply(self, config: Body, manager: str, subresource: str, force: bool) -> Body:
        key = key_of(config)
        if not key[2]:
            raise Invalid(400, "BadRequest", "name must be provided")
        if config["metadata"].get("managedFields"):
            raise Invalid(400, "BadRequest", "metadata.managedFields must be nil")
        stored = self._objects.get(key)
        if stored is None and subresource:
            raise NotFound(404, "NotFound", f'{resource_of(config).plural} "{key[2]}" not found')
        live = stored.body if stored else identity(config)
        metadata = {name: value for name, value in config["metadata"].items() if name != "uid" or not subresource}
        check_preconditions({"metadata": metadata}, live if stored else None)
        schema = self._schema(key[0])
        who: ManagerKey = (manager, "Apply", subresource)
        result = apply(schema, live, stored.managers if stored else {}, part(config, subresource), who)
        if result.conflicts and not force:
            fields = ", ".join(f'conflict with "{other}": {dotted(path)}' for other, path in result.conflicts)
            raise Conflict(409, "Conflict", f"Apply failed with {len(result.conflicts)} conflict(s): {fields}")
        check_immutable(live if stored else {}, result.body)
        return self._store(key, result.body, result.managers)

    def _create(self, body: Body) -> Body:
        if body["kind"] == "TokenReview":
            return self._review(body)
        body = deepcopy(body)
        if not body["metadata"].get("name") and (prefix := body["metadata"].get("generateName")):
            body["metadata"]["name"] = f"{prefix}{next(self._uids):05d}"
        key = key_of(body)
        if key in self._objects:
            raise Conflict(409, "AlreadyExists", f'{resource_of(body).plural} "{key[2]}" already exists')
        fresh = part(body, "")
        return self._store(key, fresh, update(self._schema(key[0]), {}, {}, fresh, (FIELD_MANAGER, "Update", "")))

    def _review(self, body: Body) -> Body:
        user, audiences = self.tokens.get(body["spec"]["token"]), body["spec"].get("audiences", [])
        known = {"authenticated": True, "user": user, "audiences": audiences}
        return {**body, "status": known if user else {"authenticated": False}}

    def _replace(self, body: Body) -> Body:
        key = key_of(body)
        stored = self._stored(resource_of(body), key[1], key[2])
        check_preconditions(body, stored.body)
        fresh = part(body, "")
        fresh["metadata"] = {**system_metadata(stored.body), **fresh["metadata"]}
        if "status" in stored.body and key[0] in STATUS_KINDS:
            fresh["status"] = stored.body["status"]
        check_immutable(stored.body, fresh)
        managers = update(self._schema(key[0]), stored.body, stored.managers, fresh, (FIELD_MANAGER, "Update", ""))
        return self._store(key, fresh, managers)

    def _delete(self, resource: Resource, namespace: str, name: str, uid: str) -> None:
        stored = self._stored(resource, namespace, name)
        if uid and uid != stored.body["metadata"]["uid"]:
            raise Conflict(409, "Conflict", f"the UID in the precondition ({uid}) does not match")
        if stored.body["metadata"].get("finalizers"):
            body = deepcopy(stored.body)
            body["metadata"]["deletionTimestamp"] = text_of(self.clock.now())
            self._store(key_of(body), body, stored.managers)
        else:
            self._remove(key_of(stored.body))

    def _store(self, key: tuple[str, str, str], body: Body, managers: Managers) -> Body:
        old = self._objects.get(key)
        body = deepcopy(body)
        metadata = body["metadata"]
        for name in ("labels", "annotations"):
            if metadata.get(name) == {}:
                del metadata[name]
        if old is None:
            metadata.update(
                uid=f"00000000-0000-4000-8000-{next(self._uids):012d}", creationTimestamp=text_of(self.clock.now())
            )
            if key[0] in _GENERATION_KINDS:
                metadata["generation"] = 1
        elif comparable(old.body) == comparable(body) and old.managers == managers:
            return deepcopy(old.body)
        elif key[0] in _GENERATION_KINDS and old.body.get("spec") != body.get("spec"):
            metadata["generation"] = old.body["metadata"]["generation"] + 1
        metadata["resourceVersion"] = str(next(self._versions))
        metadata["managedFields"] = managed_fields(body["apiVersion"], managers)
        self._objects[key] = _Stored(body, managers)
        if metadata.get("deletionTimestamp") and not metadata.get("finalizers"):
            self._remove(key)
        else:
            self._tell("ADDED" if old is None else "MODIFIED", body)
        return deepcopy(body)

    def _remove(self, key: tuple[str, str, str]) -> None:
        body = self._objects.pop(key).body
        self._tell("DELETED", body)
        uid = body["metadata"]["uid"]
        for other, stored in list(self._objects.items()):
            owners = stored.body["metadata"].get("ownerReferences", ())
            if any(owner["uid"] == uid for owner in owners) and not self._any_alive(owners) and other in self._objects:
                self._remove(other)

    def _any_alive(self, owners: Iterable[Body]) -> bool:
        uids = {owner["uid"] for owner in owners}
        return any(stored.body["metadata"]["uid"] in uids for stored in self._objects.values())

    def _tell(self, event: str, body: Body) -> None:
        for callback in self.on_event:
            callback(event, deepcopy(body))
