"""Objects of a test's cluster, read over the API server's own protocol.

Waits ask five times a second, and each question by kubectl costs a program's start: two waiting halves of the tests would keep a whole core busy with
that alone.
"""

from __future__ import annotations

import json
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode

from kubernetes import config
from urllib3.exceptions import HTTPError

from testbed.processes import TestbedError

_GROUPS: Final = ("api/v1", "apis/batch/v1", "apis/apps/v1", "apis/apiextensions.k8s.io/v1")


class Objects:
    """What stands in the cluster of a kubeconfig; kinds by any name that kubectl takes for them."""

    def __init__(self, kubeconfig: Path) -> None:
        self._client = config.new_client_from_config(str(kubeconfig))
        self._kinds: dict[str, tuple[str, str, bool]] = {}

    def get(self, kind: str, name: str, namespace: str) -> dict[str, Any] | None:
        """Return one object, or None when there is none."""
        return self._read(f"{self._path(kind, namespace)}/{name}")

    def list(self, kind: str, namespace: str, selector: str) -> list[dict[str, Any]]:
        """Return every object of a kind in one namespace, or in all where that is empty."""
        found = self._read(self._path(kind, namespace), labelSelector=selector)
        return [] if found is None else list(found["items"])

    def refusal(self, body: dict[str, Any], namespace: str) -> str:
        """Return in its words why the server would not create an object, an empty text where it would; nothing is stored."""
        path = self._path(body["kind"].lower(), namespace)
        status, text = self._ask("POST", path, body, dryRun="All", fieldValidation="Strict")
        return "" if status == HTTPStatus.CREATED else str(json.loads(text)["message"])

    def close(self) -> None:
        """Close the connections."""
        self._client.rest_client.pool_manager.clear()

    def _path(self, kind: str, namespace: str) -> str:
        if kind not in self._kinds:
            self._discover()
        if kind not in self._kinds:
            raise TestbedError(f"the API server has no kind {kind}; its CRD may not be there yet")
        group, plural, namespaced = self._kinds[kind]
        return f"/{group}/namespaces/{namespace}/{plural}" if namespaced and namespace else f"/{group}/{plural}"

    def _discover(self) -> None:
        groups = (self._read("/apis") or {})["groups"]
        others = [f"apis/{version['groupVersion']}" for group in groups for version in group["versions"]]
        for group in (*_GROUPS, *others):
            for resource in (self._read(f"/{group}") or {"resources": ()})["resources"]:
                if "/" not in resource["name"]:
                    for name in (resource["name"], resource["singularName"], *resource.get("shortNames", ())):
                        self._kinds.setdefault(name, (group, resource["name"], resource["namespaced"]))

    def _read(self, path: str, **query: str) -> dict[str, Any] | None:
        """Return what the server says, None where it knows no such thing."""
        status, text = self._ask("GET", path, None, **query)
        if status == HTTPStatus.NOT_FOUND:
            return None
        if status != HTTPStatus.OK:
            raise TestbedError(f"GET {path}: {status} {text!r}")
        found: dict[str, Any] = json.loads(text)
        return found

    def _ask(self, method: str, path: str, body: dict[str, Any] | None, **query: str) -> tuple[int, bytes]:
        url = f"{self._client.configuration.host}{path}?{urlencode(query)}"
        try:
            answer = self._client.rest_client.request(method, url, body=body)
            return answer.status, answer.read()
        except HTTPError as error:
            raise TestbedError(f"{method} {path}: {error}") from error
