"""What a server-side apply costs the operator's process, by three ways: `python bench/api_client.py` prints JSON.

`aiohttp` is a bare call, `controller` is `controller.kube_client.KubernetesApi` (the official client's ApiClient), and
`dynamic` is the official client's dynamic client. The server is a process that answers every request with a constant,
so that the client alone is measured; a real API server is slower and narrows the difference.
"""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
from kubernetes.aio.client import ApiClient, Configuration
from kubernetes.aio.dynamic import DynamicClient
from kubernetes.aio.dynamic.resource import Resource

from finetune_operator.controller.kube import JOBS
from finetune_operator.controller.kube_client import APPLY_CONTENT_TYPE, KubernetesApi

REQUESTS = 2000
ROUNDS = 3
CONCURRENT = 8
JOB: dict[str, Any] = {
    "apiVersion": "batch/v1",
    "kind": "Job",
    "metadata": {"name": "a", "namespace": "team"},
    "spec": {
        "template": {
            "spec": {"containers": [{"name": "t", "env": [{"name": f"E{i}", "value": "v"} for i in range(30)]}]}
        }
    },
}
SERVER = """
import asyncio, sys
body = sys.argv[1].encode()
answer = b"HTTP/1.1 200 OK\\r\\nContent-Type: application/json\\r\\nContent-Length: %d\\r\\n\\r\\n" % len(body) + body
class Constant(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport, self.pending = transport, b""
    def data_received(self, data):
        self.pending += data
        while (end := self.pending.find(b"\\r\\n\\r\\n")) >= 0:
            head = self.pending[:end].lower()
            length = int(head.partition(b"content-length:")[2].split(b"\\r\\n")[0] or 0)
            if len(self.pending) < end + 4 + length:
                return
            self.pending = self.pending[end + 4 + length:]
            self.transport.write(answer)
async def main():
    server = await asyncio.get_running_loop().create_server(Constant, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()
asyncio.run(main())
"""


async def measure(call: Callable[[], Awaitable[object]]) -> dict[str, float]:
    """Return requests per second and CPU milliseconds per request."""
    remaining = iter(range(REQUESTS))

    async def work() -> None:
        for _ in remaining:
            await call()

    cpu, wall = time.process_time(), time.perf_counter()
    await asyncio.gather(*(work() for _ in range(CONCURRENT)))
    seconds = time.perf_counter() - wall
    return {"per_second": round(REQUESTS / seconds), "cpu_ms": round((time.process_time() - cpu) / REQUESTS * 1000, 3)}


async def compare(url: str) -> dict[str, Any]:
    """Return the best of several rounds for each way; the ways take turns, so that a busy machine hurts all alike."""
    configuration = Configuration()
    configuration.host = url
    ours = KubernetesApi(configuration)
    async with aiohttp.ClientSession(base_url=url) as session, ApiClient(configuration) as client:
        dynamic = DynamicClient(client)
        jobs = Resource(
            prefix="apis",
            group="batch",
            api_version="v1",
            kind="Job",
            namespaced=True,
            verbs=["patch"],
            name="jobs",
            client=dynamic,
        )

        async def by_aiohttp() -> object:
            headers = {"Content-Type": APPLY_CONTENT_TYPE}
            path = JOBS.path("team", "a") + "?fieldManager=bench&force=true"
            async with session.patch(path, data=json.dumps(JOB), headers=headers) as response:
                return json.loads(await response.read())

        async def by_controller() -> object:
            return await ours.apply(JOB)

        async def by_dynamic() -> object:
            return await dynamic.server_side_apply(jobs, JOB, field_manager="bench", force_conflicts=True)

        ways = {"aiohttp": by_aiohttp, "controller": by_controller, "dynamic": by_dynamic}
        best: dict[str, Any] = {}
        for _ in range(ROUNDS):
            for name, call in ways.items():
                found = await measure(call)
                if name not in best or found["cpu_ms"] < best[name]["cpu_ms"]:
                    best[name] = found
    await ours.close()
    return {"requests": REQUESTS, "concurrent": CONCURRENT, **best}


def resident_mib() -> int:
    """Return this process's resident memory."""
    found = re.search(r"VmRSS:\s+(\d+)", Path("/proc/self/status").read_text(encoding="utf-8"))
    return int(found[1]) // 1024 if found else 0


def main() -> None:
    """Start the constant server, compare, print."""
    server = subprocess.Popen([sys.executable, "-c", SERVER, json.dumps(JOB)], stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        port = int(server.stdout.readline())
        result = asyncio.run(compare(f"http://127.0.0.1:{port}"))
        print(json.dumps({**result, "rss_mib": resident_mib()}))
    finally:
        server.terminate()
        server.wait()


if __name__ == "__main__":
    main()
