"""`Api` on a real cluster: the official client's asyncio half, its configuration, TLS and token renewal; JSON in and out.

Requests go through the client's `ApiClient`, not through its dynamic client: that one asks the server for all its kinds
at start, keeps the answers in a file of predictable name under /tmp (a read-only root has none), and takes 40 % more CPU
per request. A bare aiohttp call takes a third of the CPU of ours (bench/api_client.py: 0.12, 0.35 and 0.48 ms), which
does not matter at the tens of requests per second that 5,000 jobs need. The generated models are never imported: beside
kopf, importing the client adds 2 MB.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode

import aiohttp
from kubernetes.aio import config as kubernetes_config
from kubernetes.aio.client import ApiClient, Configuration

from finetune_operator import __version__
from finetune_operator.api.constants import FIELD_MANAGER
from finetune_operator.controller.kube import Body, Listing, Resource, Unavailable, error_of, resource_of

APPLY_CONTENT_TYPE: Final = "application/apply-patch+yaml"
PAGE_SIZE: Final = 500
SERVICE_ACCOUNT_TOKEN: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount/token")

OnRequest = Callable[[str, int], None]
"""Told of every request: verb, HTTP status (0: no answer)."""


async def load_configuration(kubeconfig: str | None = None) -> Configuration:
    """Return the client's configuration: of `kubeconfig`, else of the pod's service account, else of $KUBECONFIG or ~/.kube."""
    configuration = Configuration()
    if kubeconfig is None and SERVICE_ACCOUNT_TOKEN.is_file():
        kubernetes_config.load_incluster_config(client_configuration=configuration)
    else:
        await kubernetes_config.load_kube_config(
            config_file=kubeconfig, client_configuration=configuration, persist_config=False
        )
    return configuration


class KubernetesApi:
    """`Api` over HTTP. One instance per process: it holds the connections; close it with `close`."""

    def __init__(
        self,
        configuration: Configuration,
        *,
        timeout_seconds: float = 15.0,
        on_request: OnRequest = lambda verb, status: None,
    ) -> None:
        # The client's own retries would run past our time limit, hide 429 from the queue, and repeat writes.
        configuration.retries = None
        configuration.connection_pool_maxsize = 32
        self._client = ApiClient(configuration)
        self._client.user_agent = f"finetune-operator/{__version__}"
        self._timeout = aiohttp.ClientTimeout(total=timeout_seconds, connect=min(5.0, timeout_seconds))
        self._on_request = on_request

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()

    async def apply(
        self, body: Body, *, manager: str = FIELD_MANAGER, subresource: str = "", force: bool = True
    ) -> Body:
        """Server-side apply."""
        # A field that the server does not know is an error in a child, which would run without it. In a status it is one
        # that an older CRD lacks (Helm does not upgrade CRDs): better a status without it than none.
        validation = "Ignore" if subresource else "Strict"
        query = {"fieldManager": manager, "force": "true" if force else "false", "fieldValidation": validation}
        return await self._send("apply", "PATCH", _path_of(body, subresource), query, body, APPLY_CONTENT_TYPE)

    async def create(self, body: Body) -> Body:
        """POST."""
        path = resource_of(body).path(body.get("metadata", {}).get("namespace", ""))
        return await self._send("create", "POST", path, {"fieldManager": FIELD_MANAGER}, body)

    async def replace(self, body: Body) -> Body:
        """PUT."""
        return await self._send("replace", "PUT", _path_of(body), {"fieldManager": FIELD_MANAGER}, body)

    async def delete(self, resource: Resource, namespace: str, name: str, *, uid: str = "") -> None:
        """DELETE, dependents in the background."""
        options: Body = {"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": "Background"}
        if uid:
            options["preconditions"] = {"uid": uid}
        await self._send("delete", "DELETE", resource.path(namespace, name), {}, options)

    async def get(self, resource: Resource, namespace: str, name: str) -> Body:
        """GET one."""
        return await self._send("get", "GET", resource.path(namespace, name), {})

    async def list(self, resource: Resource, namespace: str = "", *, labels: str = "", fields: str = "") -> Listing:
        """GET all, page by page."""
        items: list[Body] = []
        query = {"limit": str(PAGE_SIZE)}
        if labels:
            query["labelSelector"] = labels
        if fields:
            query["fieldSelector"] = fields
        while True:
            page = await self._send("list", "GET", resource.path(namespace), query)
            items.extend(page.get("items") or ())
            metadata = page.get("metadata") or {}
            if not metadata.get("continue"):
                return Listing(tuple(items))
            query = {**query, "continue": metadata["continue"]}

    async def _send(
        self,
        verb: str,
        method: str,
        path: str,
        query: dict[str, str],
        body: Body | None = None,
        content_type: str = "application/json",
    ) -> Body:
        status = 0
        try:
            status, answer, retry_after = await self._exchange(method, path, query, body, content_type)
        except TimeoutError as error:
            raise Unavailable(0, "Timeout", f"{method} {path}: no answer within {self._timeout.total} s") from error
        except (aiohttp.ClientError, OSError) as error:
            raise Unavailable(0, "ConnectionFailed", f"{method} {path}: {error or type(error).__name__}") from error
        finally:
            self._on_request(verb, status)
        if status >= 400:
            raise error_of(status, answer, retry_after)
        return answer

    async def _exchange(
        self, method: str, path: str, query: dict[str, str], body: Body | None, content_type: str
    ) -> tuple[int, Body, str | None]:
        # asyncio's limit covers what aiohttp's does not: the renewal of credentials before the request.
        async with asyncio.timeout(self._timeout.total):
            request: Any = await self._client.param_serialize(
                method,
                f"{path}?{urlencode(query)}" if query else path,
                header_params={"Accept": "application/json", "Content-Type": content_type},
                auth_settings=["BearerToken"],
            )
            verb, url, headers, _, _ = request
            response = await self._client.call_api(verb, url, headers, body, _request_timeout=self._timeout)
            text = await response.read()
        try:
            answer = json.loads(text)
        except ValueError:
            answer = {}
        if not isinstance(answer, dict):
            answer = {}
        if response.status >= 400 and "message" not in answer:
            answer = {"reason": response.reason, "message": f"{method} {path}: {text[:200].decode(errors='replace')}"}
        return response.status, answer, response.getheader("Retry-After")


def _path_of(body: Body, subresource: str = "") -> str:
    metadata = body["metadata"]
    return resource_of(body).path(metadata.get("namespace", ""), metadata["name"], subresource)
