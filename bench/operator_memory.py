"""Memory and start-up time of the operator's watch at scale: `python bench/operator_memory.py [JOBS] [CHILDREN]` prints JSON.

A process of its own plays the API server: it lists JOBS FineTuneJobs with CHILDREN batch Jobs each, as large as real
ones, and then keeps the watches open. Measured is this process: kopf, cache and queue as the operator runs them, with
workers that only read the cache. Default: 5,000 jobs with 3 children each (inspect, one attempt, publish).
"""

from __future__ import annotations

import asyncio
import gc
import json
import re
import subprocess
import sys
import time
from pathlib import Path

from kubernetes.aio.client import Configuration

from finetune_operator.api.constants import GROUP, VERSION
from finetune_operator.controller import shell
from finetune_operator.controller.cache import Cache, JobKey
from finetune_operator.controller.clock import SystemClock
from finetune_operator.controller.logs import configure_logs
from finetune_operator.controller.workqueue import WorkQueue
from finetune_operator.testing import finetune_job, indexed_job

SETTLE_SECONDS = 10
LIMIT_SECONDS = 240
# kopf waits for namespaces and CRDs to be discovered, even when it does not watch them.
KINDS = {
    "": ("namespaces", "Namespace"),
    "apiextensions.k8s.io": ("customresourcedefinitions", "CustomResourceDefinition"),
    "batch": ("jobs", "Job"),
    GROUP: ("finetunejobs", "FineTuneJob"),
}


def job_body(number: int) -> dict[str, object]:
    """Return a running job with a status of usual size (4 KB)."""
    conditions = [
        {
            "type": f"Type{i}",
            "status": "True",
            "reason": "Reason",
            "message": "m" * 60,
            "lastTransitionTime": "2026-01-01T00:00:00Z",
            "observedGeneration": 1,
        }
        for i in range(11)
    ]
    status = {"state": "Running", "conditions": conditions, "plan": {"reasons": ["r" * 80] * 4}, "message": "training"}
    body = finetune_job(f"job-{number}", status=status)
    body["metadata"] |= {
        "uid": f"job-{number}",
        "resourceVersion": str(number + 1),
        "creationTimestamp": "2026-01-01T00:00:00Z",
        "generation": 1,
    }
    body["metadata"]["managedFields"] = [
        {"manager": "finetune-operator", "fieldsV1": {f"f:{i}": {} for i in range(60)}}
    ]
    return body


def child_body(number: int, child: int) -> dict[str, object]:
    """Return a batch Job of usual size (4 KB)."""
    body = indexed_job(f"job-{number}", child + 1, status={"active": 1, "ready": 1})
    container = body["spec"]["template"]["spec"]["containers"][0]
    container["env"] = [{"name": f"VARIABLE_{i}", "value": "value" * 4} for i in range(20)]
    uid = f"child-{number}-{child}"
    body["metadata"] |= {"uid": uid, "resourceVersion": str(number + 1), "creationTimestamp": "2026-01-01T00:00:00Z"}
    body["metadata"]["managedFields"] = [
        {"manager": "finetune-operator", "fieldsV1": {f"f:{i}": {} for i in range(60)}}
    ]
    return body


async def serve(jobs: int, children: int) -> None:
    """Play the API server until killed."""
    from aiohttp import web

    def listing(request: web.Request, kind: str, bodies: list[dict[str, object]]) -> web.Response:
        start, limit = int(request.query.get("continue") or 0), int(request.query.get("limit") or len(bodies))
        end = start + limit
        metadata = {"resourceVersion": "1000000", "continue": str(end) if end < len(bodies) else ""}
        return web.json_response(
            {"kind": f"{kind}List", "apiVersion": "v1", "metadata": metadata, "items": bodies[start:end]}
        )

    async def collection(request: web.Request) -> web.StreamResponse:
        kind = "FineTuneJob" if request.path.endswith("finetunejobs") else "Job"
        if request.query.get("watch"):
            response = web.StreamResponse()
            await response.prepare(request)
            await asyncio.sleep(3600)
            return response
        if kind == "FineTuneJob":
            return listing(request, kind, [job_body(number) for number in range(jobs)])
        return listing(
            request, kind, [child_body(number, child) for number in range(jobs) for child in range(children)]
        )

    async def discovery(request: web.Request) -> web.Response:
        plural, kind = KINDS[request.match_info.get("group", "")]
        resource = {"name": plural, "singularName": kind.lower(), "kind": kind, "verbs": ["list", "watch", "patch"]}
        return web.json_response({"resources": [{**resource, "namespaced": kind in ("FineTuneJob", "Job")}]})

    async def groups(_: web.Request) -> web.Response:
        versions = {group: VERSION if group == GROUP else "v1" for group in KINDS if group}
        found = [
            {"name": group, "versions": [{"version": version}], "preferredVersion": {"version": version}}
            for group, version in versions.items()
        ]
        return web.json_response({"groups": found})

    async def core(_: web.Request) -> web.Response:
        return web.json_response({"versions": ["v1"]})

    app = web.Application()
    app.add_routes(
        [
            web.get("/api", core),
            web.get("/api/v1", discovery),
            web.get("/apis", groups),
            web.get("/apis/{group}/{version}", discovery),
            web.get("/apis/{group}/{version}/{plural}", collection),
        ]
    )
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    print(runner.addresses[0][1], flush=True)
    await asyncio.sleep(3600)


async def measure(port: int, jobs: int, children: int) -> dict[str, object]:
    """Run the watch until everything was seen, let it rest, and return the numbers."""
    cache = Cache()
    queue: WorkQueue[JobKey] = WorkQueue(SystemClock())
    configuration = Configuration()
    configuration.host = f"http://127.0.0.1:{port}"

    async def work() -> None:
        while True:
            key = await queue.get()
            cache.job(key)
            queue.done(key)

    started = time.monotonic()
    before = resident_mib("VmRSS")
    tasks = [asyncio.create_task(work()) for _ in range(8)]
    tasks.append(asyncio.create_task(shell.watch(cache, queue, configuration, (), asyncio.Event())))
    async with asyncio.timeout(LIMIT_SECONDS):
        await until_all_seen(cache, jobs, children)
    seconds = time.monotonic() - started
    await asyncio.sleep(SETTLE_SECONDS)
    gc.collect()
    result: dict[str, object] = {
        "jobs": jobs,
        "children": jobs * children,
        "seconds_until_all_seen": round(seconds, 1),
        "rss_mib_before": before,
        "rss_mib_idle": resident_mib("VmRSS"),
        "rss_mib_peak": resident_mib("VmHWM"),
    }
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    return result


def all_seen(cache: Cache, jobs: int, children: int) -> bool:
    """Whether the cache has everything."""
    keys = cache.job_keys()
    return len(keys) == jobs and sum(len(cache.children(key)) for key in keys) == jobs * children


async def until_all_seen(cache: Cache, jobs: int, children: int) -> None:
    """Wait until the cache has everything; it has no event to wait for."""
    while not all_seen(cache, jobs, children):  # noqa: ASYNC110 - the cache as it runs has no event to wait for
        await asyncio.sleep(0.5)


def resident_mib(field: str) -> int:
    """Return a memory figure of this process."""
    found = re.search(rf"{field}:\s+(\d+)", Path("/proc/self/status").read_text(encoding="utf-8"))
    return int(found[1]) // 1024 if found else 0


def main() -> None:
    """Start the server's process, measure, print."""
    numbers = [int(argument) for argument in sys.argv[1:] if argument.isdigit()]
    jobs, children = (*numbers, *(5000, 3)[len(numbers) :])
    if "--serve" in sys.argv:
        asyncio.run(serve(jobs, children))
        return
    configure_logs("WARNING", sys.stderr)
    command = [sys.executable, __file__, "--serve", str(jobs), str(children)]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        print(json.dumps(asyncio.run(measure(int(server.stdout.readline()), jobs, children))))
    finally:
        server.terminate()
        server.wait()


if __name__ == "__main__":
    main()
