"""The real client against a small HTTP server: what goes over the wire, and what each answer becomes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from kubernetes.aio.client import Configuration

from finetune_operator.controller import kube
from finetune_operator.controller.kube_client import KubernetesApi
from finetune_operator.testing import config_map, finetune_job

Handler = Any


@asynccontextmanager
async def serving(handler: Handler, **options: Any) -> AsyncIterator[KubernetesApi]:
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handler)
    async with TestServer(app) as server:
        configuration = Configuration()
        configuration.host = str(server.make_url("")).rstrip("/")
        api = KubernetesApi(configuration, **options)
        try:
            yield api
        finally:
            await api.close()


@pytest.mark.parametrize(("subresource", "validation"), [("", "Strict"), ("status", "Ignore")])
async def test_an_apply_is_a_forced_patch_under_our_name(subresource: str, validation: str) -> None:
    seen: dict[str, Any] = {}

    async def handler(request: web.Request) -> web.Response:
        seen.update(method=request.method, path=request.path, type=request.content_type, query=dict(request.query))
        return web.json_response(await request.json())

    async with serving(handler) as api:
        body = finetune_job(status={"state": "Running"})
        assert await api.apply(body, subresource=subresource) == body
    assert (seen["method"], seen["type"]) == ("PATCH", "application/apply-patch+yaml")
    path = "/apis/finetune-operator.dev/v1alpha1/namespaces/team/finetunejobs/tune"
    assert seen["path"] == f"{path}/{subresource}".rstrip("/")
    assert seen["query"] == {"fieldManager": "finetune-operator", "force": "true", "fieldValidation": validation}


async def test_a_list_follows_every_page() -> None:
    pages = {None: (["a", "b"], "next one/+"), "next one/+": (["c"], "")}

    async def handler(request: web.Request) -> web.Response:
        names, token = pages[request.query.get("continue")]
        return web.json_response(
            {
                "items": [{"metadata": {"name": name}} for name in names],
                "metadata": {"continue": token},
            }
        )

    async with serving(handler) as api:
        listing = await api.list(kube.PODS, "team", labels="a in (b,c)")
    assert [item["metadata"]["name"] for item in listing.items] == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, kube.Invalid),
        (401, kube.ApiError),
        (403, kube.Forbidden),
        (404, kube.NotFound),
        (409, kube.Conflict),
        (410, kube.ApiError),
        (422, kube.Invalid),
        (500, kube.Unavailable),
        (503, kube.Unavailable),
    ],
)
async def test_every_refusal_is_an_error_of_its_own_with_the_server_s_words(
    status: int, error: type[kube.ApiError]
) -> None:
    async def handler(request: web.Request) -> web.Response:
        return web.json_response({"kind": "Status", "reason": "Because", "message": "the reason why"}, status=status)

    async with serving(handler) as api:
        with pytest.raises(kube.ApiError, match="the reason why") as caught:
            await api.get(kube.CONFIG_MAPS, "team", "a")
    assert type(caught.value) is error
    assert (caught.value.status, caught.value.reason) == (status, "Because")


async def test_a_429_says_how_long_to_wait_and_is_not_retried_by_the_client() -> None:
    calls = 0

    async def handler(request: web.Request) -> web.Response:
        nonlocal calls
        calls += 1
        return web.json_response({"message": "slow down"}, status=429, headers={"Retry-After": "7"})

    async with serving(handler) as api:
        with pytest.raises(kube.TooManyRequests) as caught:
            await api.get(kube.CONFIG_MAPS, "team", "a")
    assert (caught.value.retry_after, calls) == (7.0, 1)


async def test_a_server_that_does_not_answer_in_time_is_unavailable() -> None:
    release = asyncio.Event()

    async def handler(request: web.Request) -> web.Response:
        await release.wait()
        return web.json_response({})

    reported: list[tuple[str, int]] = []
    async with serving(
        handler, timeout_seconds=0.05, on_request=lambda verb, status: reported.append((verb, status))
    ) as api:
        with pytest.raises(kube.Unavailable, match="no answer within"):
            await api.apply(config_map("a", {}))
        release.set()
    assert reported == [("apply", 0)]


async def test_a_server_that_is_not_there_is_unavailable() -> None:
    configuration = Configuration()
    configuration.host = "http://127.0.0.1:9"
    api = KubernetesApi(configuration)
    with pytest.raises(kube.Unavailable, match="ConnectionFailed"):
        await api.get(kube.CONFIG_MAPS, "team", "a")
    await api.close()


async def test_a_page_of_html_from_a_proxy_is_an_error_with_its_first_words() -> None:
    async def handler(request: web.Request) -> web.Response:
        return web.Response(text="<html>bad gateway", status=502)

    async with serving(handler) as api:
        with pytest.raises(kube.Unavailable, match="bad gateway"):
            await api.get(kube.CONFIG_MAPS, "team", "a")


async def test_the_bearer_token_of_the_configuration_is_sent() -> None:
    async def handler(request: web.Request) -> web.Response:
        return web.json_response({"token": request.headers.get("Authorization")})

    async with serving(handler) as api:
        api._client.configuration.api_key["BearerToken"] = "bearer abc"
        assert await api.get(kube.CONFIG_MAPS, "team", "a") == {"token": "bearer abc"}
