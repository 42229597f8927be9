"""A proxy in front of an S3 server that makes it fail: HTTP 503, connections reset in the middle of a body, a bucket that is read-only.

One request per connection, so that each is judged alone: both sides are told to close. Requests pass unchanged, signatures stay valid. toxiproxy
(Go) knows the faults of connections and not those of HTTP. Threads, since what asyncio's transports leave open when their loop is stopped cannot be
joined: a connection accepted at that moment failed a test by its ResourceWarning.
"""

from __future__ import annotations

import contextlib
import re
import socket
import struct
from collections.abc import Callable, Iterator
from io import BufferedIOBase
from socketserver import StreamRequestHandler, ThreadingTCPServer
from threading import Lock, Thread
from types import TracebackType
from typing import Any, Self

Fault = str
"""`503`, `reset` or `read-only`."""
_ANSWERS = {
    "503": (b"503 Slow Down", b"SlowDown", b"Please reduce your request rate."),
    "read-only": (b"403 Forbidden", b"AccessDenied", b"Access Denied."),
}
_PART = 65536
"""Bytes passed on at once."""


class FaultProxy(ThreadingTCPServer):
    """Listens on a free port of this machine; a context manager.

    `choose` is asked for each request, by method and path, which fault it meets; None lets it through. `met` counts the faults.
    """

    request_queue_size = 128
    daemon_threads = False  # those are not joined by server_close

    def __init__(self, host: str, port: int, choose: Callable[[str, str], Fault | None]) -> None:
        super().__init__(("127.0.0.1", 0), _Request)
        self.target, self.choose = (host, port), choose
        self.met = 0
        self.endpoint = f"http://127.0.0.1:{self.server_address[1]}"
        self._lock = Lock()
        self._open: set[socket.socket] = set()
        self._ending = False
        self._thread = Thread(target=self.serve_forever, args=(0.05,), name="fault-proxy")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.shutdown()
        self._thread.join()
        with self._lock:
            self._ending = True
            for connection in self._open:
                _end(connection)
        self.server_close()

    def shutdown_request(self, request: Any) -> None:
        """Close it, without the FIN before that would hide the RST of a reset connection."""
        self.close_request(request)

    def count(self) -> None:
        with self._lock:
            self.met += 1

    @contextlib.contextmanager
    def watched(self, connection: socket.socket) -> Iterator[None]:
        """While within, the proxy's end ends the connection too: its thread would wait for the peer otherwise."""
        with self._lock:
            if self._ending:
                _end(connection)
            self._open.add(connection)
        try:
            yield
        finally:
            with self._lock:
                self._open.discard(connection)


class _Request(StreamRequestHandler):
    server: FaultProxy

    def handle(self) -> None:
        with contextlib.suppress(ConnectionError), self.server.watched(self.connection):
            head = _head(self.rfile)
            if not head:
                return
            method, path, _ = head.split(b" ", 2)
            fault = self.server.choose(method.decode(), path.decode())
            if fault is None:
                self._pass(head)
            else:
                self.server.count()
                self._fail(fault, _length(head))

    def finish(self) -> None:
        # Both sides may have closed before: what is still in the buffers is nobody's.
        with contextlib.suppress(ConnectionError):
            super().finish()

    def _pass(self, head: bytes) -> None:
        with socket.create_connection(self.server.target) as target, self.server.watched(target):
            target.sendall(_closing(head))
            left = _length(head)
            while left and (part := self.rfile.read1(min(left, _PART))):
                target.sendall(part)
                left -= len(part)
            with target.makefile("rb") as answers:
                self.connection.sendall(_closing(_head(answers)))
                while part := answers.read1(_PART):
                    self.connection.sendall(part)

    def _fail(self, fault: Fault, length: int) -> None:
        if fault == "reset":
            self.rfile.read1(max(1, length // 2))
            # Closed with a linger of 0 seconds, a connection ends by RST instead of FIN.
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            return
        self.rfile.read(length)
        status, code, words = _ANSWERS[fault]
        body = b"<Error><Code>" + code + b"</Code><Message>" + words + b"</Message></Error>"
        size = str(len(body)).encode()
        self.connection.sendall(
            b"HTTP/1.1 "
            + status
            + b"\r\nContent-Type: application/xml\r\nConnection: close\r\nContent-Length: "
            + size
            + b"\r\n\r\n"
            + body
        )


def _head(stream: BufferedIOBase) -> bytes:
    """A message up to its empty line, which is included; empty when the peer has ended it before."""
    head = b""
    while line := stream.readline():
        head += line
        if line == b"\r\n":
            return head
    return b""


def _end(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):  # the peer has ended it
        connection.shutdown(socket.SHUT_RDWR)


def _length(head: bytes) -> int:
    found = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)
    return int(found[1]) if found else 0


def _closing(head: bytes) -> bytes:
    rest = re.sub(rb"(?i)\r\n(connection|keep-alive):[^\r]*", b"", head)
    return rest.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
