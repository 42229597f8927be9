"""A server that speaks OpenAI's chat completions, with every way in which one can fail to give a score."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Reply = tuple[int, bytes, dict[str, str]]


class Endpoint:
    """A server that answers by a list, its last entry for ever, or by what it is asked; it keeps what it was asked."""

    def __init__(
        self, *replies: Reply, by: Callable[[str], Reply] | None = None, refuses: Mapping[str, int] | None = None
    ) -> None:
        self.replies, self.asked = list(replies), list[tuple[str, str | None, dict[str, Any]]]()
        self.by = by
        self.refuses = refuses or {}
        self.url = ""

    def reply(self, body: dict[str, Any]) -> Reply:
        for parameter, code in self.refuses.items():
            if parameter in body:
                return code, b'{"error": {"message": "it is not supported"}}', {}
        if self.by is not None:
            return self.by(body["messages"][0]["content"])
        return self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]


def said(text: str, logprobs: Any = None) -> Reply:
    choice = {"message": {"role": "assistant", "content": text}, "logprobs": logprobs}
    return 200, json.dumps({"choices": [choice]}).encode(), {}


class _Server(ThreadingHTTPServer):
    request_queue_size = 64  # by default 5 wait: of eight at once some would be dropped, and tried again a second later


@contextmanager
def serving(
    *replies: Reply, by: Callable[[str], Reply] | None = None, refuses: Mapping[str, int] | None = None
) -> Iterator[Endpoint]:
    """Serve; `refuses` has parameters of requests with the status that they get."""
    endpoint = Endpoint(*replies, by=by, refuses=refuses)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            endpoint.asked.append((self.path, self.headers.get("Authorization"), body))
            code, content, headers = endpoint.reply(body)
            self.send_response(code)
            for name, value in {**headers, "Content-Length": str(len(content))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *arguments: object) -> None:
            """Say nothing."""

    server = _Server(("127.0.0.1", 0), Handler)
    server.daemon_threads = False  # so that its end waits for them
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    endpoint.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    try:
        yield endpoint
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
