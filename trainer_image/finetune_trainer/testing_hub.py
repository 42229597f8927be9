"""A hub in memory for tests: enough of the HTTP interface for huggingface_hub to resolve a revision and read ranges."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Final

COMMIT: Final = "c0ffee" * 6 + "c0ff"


@contextmanager
def serve_hub(repository: str, files: Mapping[str, bytes], *, refuse: int | None = None) -> Iterator[str]:
    """Serve one repository with one commit (branch main) and yield the endpoint; `refuse` is answered to everything."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = self.path.partition("?")[0].strip("/").removeprefix("api/models/").removeprefix("api/datasets/")
            path = path.removeprefix("datasets/")
            if refuse is not None:
                self._answer(refuse, b"{}")
            elif path in (f"{repository}/revision/main", f"{repository}/revision/{COMMIT}"):
                self._answer(200, json.dumps(_description(repository, files)).encode())
            elif path.startswith(f"{repository}/revision/"):
                self._answer(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
            elif path.startswith(f"{repository}/resolve/{COMMIT}/"):
                self._part(files[path.removeprefix(f"{repository}/resolve/{COMMIT}/")])
            else:
                self._answer(404, b"{}", {"X-Error-Code": "RepoNotFound"})

        def _part(self, content: bytes) -> None:
            first, _, last = self.headers["Range"].removeprefix("bytes=").partition("-")
            self._answer(206, content[int(first) : int(last) + 1])

        def _answer(self, status: int, body: bytes, headers: Mapping[str, str] | None = None) -> None:
            self.send_response(status)
            for key, value in (headers or {}).items():
                self.send_header(key, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


def _description(repository: str, files: Mapping[str, bytes]) -> dict[str, object]:
    siblings = [
        {
            "rfilename": name,
            "size": len(content),
            "blobId": hashlib.sha1(content).hexdigest(),  # noqa: S324 - git's own
            "lfs": {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 1},
        }
        for name, content in files.items()
    ]
    return {"id": repository, "sha": COMMIT, "siblings": siblings, "tags": [], "private": False}
