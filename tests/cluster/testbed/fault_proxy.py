"""A proxy in front of an S3 server that makes it fail: HTTP 503, connections reset in the middle of a body, a bucket that is read-only.

One request per connection, so that each is judged alone: both sides are told to close. Requests pass unchanged, signatures stay valid. toxiproxy
(Go) knows the faults of connections and not those of HTTP.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import struct
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self

Fault = str
"""`503`, `reset` or `read-only`."""
_ANSWERS = {
    "503": (b"503 Slow Down", b"SlowDown", b"Please reduce your request rate."),
    "read-only": (b"403 Forbidden", b"AccessDenied", b"Access Denied."),
}


class FaultProxy:
    """Listens on a free port of this machine; a context manager.

    `choose` is asked for each request, by method and path, which fault it meets; None lets it through. `met` counts the faults.
    """

    def __init__(self, host: str, port: int, choose: Callable[[str, str], Fault | None]) -> None:
        self._target, self._choose = (host, port), choose
        self.met = 0
        self.endpoint = ""
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="fault-proxy", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        server = asyncio.run_coroutine_threadsafe(asyncio.start_server(self._serve, "127.0.0.1", 0), self._loop)
        self._server = server.result(5)
        self.endpoint = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result(5)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)
        self._loop.close()

    async def _close(self) -> None:
        self._server.close()
        # Again and again: a connection that was accepted just now has its task only in the loop's next turn.
        while tasks := asyncio.all_tasks() - {asyncio.current_task()}:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
                head = await reader.readuntil(b"\r\n\r\n")
                method, path, _ = head.split(b" ", 2)
                fault = self._choose(method.decode(), path.decode())
                if fault is None:
                    await self._pass(head, reader, writer)
                else:
                    self.met += 1
                    await self._fail(fault, _length(head), reader, writer)
        finally:
            await _close(writer)

    async def _pass(self, head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        answers, requests = await asyncio.open_connection(*self._target)
        try:
            requests.write(_closing(head))
            left = _length(head)
            while left:
                part = await reader.read(min(left, 65536))
                if not part:
                    break
                requests.write(part)
                await requests.drain()
                left -= len(part)
            writer.write(_closing(await answers.readuntil(b"\r\n\r\n")))
            while part := await answers.read(65536):
                writer.write(part)
                await writer.drain()
        finally:
            await _close(requests)

    async def _fail(
        self, fault: Fault, length: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        if fault == "reset":
            await reader.read(max(1, length // 2))
            # Closed with a linger of 0 seconds, a connection ends by RST instead of FIN.
            connection: socket.socket = writer.get_extra_info("socket")
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            return
        await reader.readexactly(length)
        status, code, words = _ANSWERS[fault]
        body = b"<Error><Code>" + code + b"</Code><Message>" + words + b"</Message></Error>"
        size = str(len(body)).encode()
        writer.write(
            b"HTTP/1.1 " + status + b"\r\nContent-Type: application/xml\r\nConnection: close\r\nContent-Length: " + size
        )
        writer.write(b"\r\n\r\n" + body)
        await writer.drain()


async def _close(writer: asyncio.StreamWriter) -> None:
    """Close the connection, and be content when the other side has done so before."""
    writer.close()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()


def _length(head: bytes) -> int:
    found = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)
    return int(found[1]) if found else 0


def _closing(head: bytes) -> bytes:
    rest = re.sub(rb"(?i)\r\n(connection|keep-alive):[^\r]*", b"", head)
    return rest.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
