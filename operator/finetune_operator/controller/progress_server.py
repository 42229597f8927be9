"""Where pods report to: POST …/finetunejobs/{name}/progress and …/inspection, over TLS, on every replica.

The body of /progress is that of Kubeflow's KEP-2779, so that an unmodified transformers image reports here as well. A
pod proves who it is with a projected token and may speak for its own job only. Neither tokens nor bodies are ever
logged, and an answer that refuses a body names its fields but not their values.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from aiohttp import web
from pydantic import BaseModel, ValidationError

from finetune_operator.api.constants import (
    COMPONENT_INSPECT,
    COMPONENT_TRAIN,
    INSPECTION_REPORT_LIMIT_BYTES,
    JOB_LABEL,
    KIND,
    progress_path,
)
from finetune_operator.api.inspection import InspectionReport
from finetune_operator.api.progress import REPORT_LIMIT_BYTES, ProgressReport
from finetune_operator.controller.clock import Clock
from finetune_operator.controller.inspection_reports import NameTaken, store_inspection
from finetune_operator.controller.kube import FINETUNE_JOBS, Api, ApiError, Body, NotFound
from finetune_operator.controller.metrics import OperatorMetrics
from finetune_operator.controller.progress_reports import ProgressWriter
from finetune_operator.controller.rate_limit import RateLimit
from finetune_operator.controller.tokens import Caller, Callers, RecentValues, Refused

logger = logging.getLogger(__name__)

REPORTS_PER_SECOND: Final = 2.0
REPORTS_AT_ONCE: Final = 20
BODY_SECONDS: Final = 10.0
_JOB_SECONDS: Final = 10.0
_PROBLEMS_NAMED: Final = 3

Notify = Callable[[str, str], None]
"""Told namespace and name of a job whose inspection has arrived."""
Report = TypeVar("Report", bound=BaseModel)


class _Answer(Exception):
    """A refusal: HTTP status, the machine's word and a plain sentence."""

    def __init__(self, status: int, reason: str, message: str) -> None:
        self.status = status
        self.reason = reason
        super().__init__(message)


class ProgressServer:
    """The handlers and what they share; `app` is served by main, which also runs `writer.flush_forever`."""

    def __init__(
        self,
        api: Api,
        clock: Clock,
        metrics: OperatorMetrics,
        *,
        notify: Notify = lambda namespace, name: None,
    ) -> None:
        self.writer: Final = ProgressWriter(api, clock, metrics.checkpoints_rejected_total.inc)
        self._api = api
        self._metrics = metrics
        self._notify = notify
        self._callers = Callers(api, clock)
        self._rate = RateLimit(clock, per_second=REPORTS_PER_SECOND, burst=REPORTS_AT_ONCE)
        self._jobs: RecentValues[tuple[str, str], Body] = RecentValues(clock, 16_384)
        self.app: Final = web.Application(client_max_size=INSPECTION_REPORT_LIMIT_BYTES)
        self.app.add_routes(
            [
                web.post(progress_path("{namespace}", "{name}", "progress"), self._route("progress", self._progress)),
                web.post(
                    progress_path("{namespace}", "{name}", "inspection"), self._route("inspection", self._inspection)
                ),
            ]
        )

    async def _progress(self, request: web.Request) -> str:
        caller, _ = await self._authorize(request, COMPONENT_TRAIN)
        report = await _read(request, ProgressReport, REPORT_LIMIT_BYTES)
        return await self.writer.take((caller.namespace, caller.job), report.trainer_status, caller.attempt)

    async def _inspection(self, request: web.Request) -> str:
        caller, job = await self._authorize(request, COMPONENT_INSPECT)
        report = await _read(request, InspectionReport, INSPECTION_REPORT_LIMIT_BYTES)
        try:
            await store_inspection(self._api, job, report)
        except NameTaken as error:
            raise _Answer(409, "Conflict", str(error)) from error
        except ValueError as error:
            raise _Answer(422, "Invalid", str(error)) from error
        self._notify(caller.namespace, caller.job)
        return "written"

    async def _authorize(self, request: web.Request, component: str) -> tuple[Caller, Body]:
        """Return who calls and the job, before anything of the body is read."""
        namespace, name = request.match_info["namespace"], request.match_info["name"]
        caller = await self._callers.caller(request.headers.get("Authorization", ""))
        if (caller.namespace, caller.job) != (namespace, name):
            raise Refused(
                403,
                f"pod {caller.namespace}/{caller.pod} belongs to job {caller.job} (label {JOB_LABEL}) "
                f"and may not report for {namespace}/{name}",
            )
        if caller.component != component:
            raise Refused(403, f"only {component} pods report here; this is a {caller.component or 'nameless'} pod")
        if not self._rate.allows((namespace, name)):
            raise _Answer(
                429, "TooManyRequests", f"more than {REPORTS_PER_SECOND:g} reports per second; report less often"
            )
        job = await self._job(namespace, name)
        # Its pods are collected soon; until then they would report into the new job of that name.
        if caller.created and caller.created < job["metadata"].get("creationTimestamp", ""):
            raise Refused(403, f"pod {caller.namespace}/{caller.pod} belongs to an earlier job of the name {name}")
        return caller, job

    async def _job(self, namespace: str, name: str) -> Body:
        job = self._jobs.get((namespace, name))
        if job is None:
            job = await self._api.get(FINETUNE_JOBS, namespace, name)
            self._jobs.put((namespace, name), {"metadata": job["metadata"]}, _JOB_SECONDS)
        return job

    def _route(
        self, kind: str, handler: Callable[[web.Request], Awaitable[str]]
    ) -> Callable[[web.Request], Awaitable[web.Response]]:
        async def handle(request: web.Request) -> web.Response:
            try:
                result = await handler(request)
            except Refused as refused:
                answer = _Answer(refused.status, _REASONS[refused.status], str(refused))
            except NotFound as error:
                answer = _Answer(404, "NotFound", f"there is no {KIND} of that name: {error.message}")
            except ApiError as error:
                answer = _Answer(
                    503, "ServiceUnavailable", f"the API server does not answer as it should: {error.reason}"
                )
                logger.warning("a %s report could not be taken: %s", kind, error)
            except _Answer as error:
                answer = error
            else:
                self._count(kind, result)
                return web.json_response({"result": result})
            self._count(kind, f"refused_{answer.status}")
            return _refusal(answer)

        return handle

    def _count(self, kind: str, result: str) -> None:
        self._metrics.progress_reports_total.labels(kind, result).inc()


async def _read(request: web.Request, model: type[Report], limit: int) -> Report:
    too_large = _Answer(413, "RequestEntityTooLarge", f"the body is larger than {limit} bytes; report less")
    if request.content_length is not None and request.content_length > limit:
        raise too_large
    try:
        async with asyncio.timeout(BODY_SECONDS):
            body = await request.read()
    except web.HTTPRequestEntityTooLarge as error:
        raise too_large from error
    except TimeoutError as error:
        raise _Answer(408, "Timeout", f"the body did not arrive within {BODY_SECONDS:.0f} s") from error
    if len(body) > limit:
        raise too_large
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        raise _Answer(422, "Invalid", _problems(error)) from error


def _problems(error: ValidationError) -> str:
    """Name the fields and what is wrong with them; never their values, which may be anything."""
    problems = error.errors(include_url=False, include_input=False, include_context=False)
    named = [f"{'.'.join(map(str, problem['loc'])) or 'body'}: {problem['msg']}" for problem in problems]
    rest = len(named) - _PROBLEMS_NAMED
    return "; ".join(named[:_PROBLEMS_NAMED]) + (f"; and {rest} more" if rest > 0 else "")


_REASONS: Final = {401: "Unauthorized", 403: "Forbidden", 429: "TooManyRequests"}
_RETRY_SECONDS: Final = {429: "1", 503: "5"}


def _refusal(answer: _Answer) -> web.Response:
    status = {
        "apiVersion": "v1",
        "kind": "Status",
        "status": "Failure",
        "code": answer.status,
        "reason": answer.reason,
        "message": str(answer),
    }
    headers = {"Retry-After": _RETRY_SECONDS[answer.status]} if answer.status in _RETRY_SECONDS else {}
    if answer.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return web.json_response(status, status=answer.status, headers=headers)
