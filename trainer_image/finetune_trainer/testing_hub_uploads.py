"""A hub in memory that takes commits: enough of the HTTP interface for huggingface_hub to create a repository and upload a folder."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final

import yaml

WRITE_TOKEN: Final = {"role": "write"}


@dataclass
class UploadHub:
    """What the hub knows."""

    endpoint: str = ""
    token: dict[str, Any] = field(default_factory=lambda: dict(WRITE_TOKEN))
    organizations: dict[str, str] = field(default_factory=lambda: {"team": "write"})
    repositories: dict[str, dict[str, bytes]] = field(default_factory=dict)
    private: dict[str, bool] = field(default_factory=dict)
    commits: list[dict[str, str]] = field(default_factory=list)
    blobs: dict[str, bytes] = field(default_factory=dict)
    """Large files, by sha256."""
    uploads: int = 0
    """How many large files were sent."""

    def files(self, repository: str) -> dict[str, bytes]:
        """Return the files of a repository."""
        return self.repositories[repository]


@contextmanager
def serve_uploads() -> Iterator[UploadHub]:
    """Serve an empty hub whose user has the organisation `team`."""
    hub = UploadHub()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            if self.path.startswith("/api/whoami-v2"):
                groups = [{"name": name, "roleInOrg": role} for name, role in hub.organizations.items()]
                self._answer({"name": "ada", "orgs": groups, "auth": {"accessToken": hub.token}})
                return
            name = _repository(self.path)
            if name not in hub.repositories:
                self._answer({}, 404, {"X-Error-Code": "RepoNotFound"})
                return
            self._answer(_description(hub, name))

        def do_POST(self) -> None:
            body = self._body()
            name = _repository(self.path)
            if self.path == "/api/repos/create":
                self._create(json.loads(body))
            elif self.path.startswith("/api/validate-yaml"):
                self._answer({"errors": [], "warnings": []})
            elif "/preupload/" in self.path:
                self._answer({"files": [_mode(hub, name, file) for file in json.loads(body)["files"]]})
            elif self.path.endswith("/objects/batch"):
                self._answer(
                    {"transfer": "basic", "objects": [_action(hub, entry) for entry in json.loads(body)["objects"]]}
                )
            elif "/commit/" in self.path:
                self._commit(name, [json.loads(line) for line in body.splitlines()])
            else:
                self._answer({}, 404)

        def do_PUT(self) -> None:
            content = self._body()
            hub.blobs[hashlib.sha256(content).hexdigest()] = content
            hub.uploads += 1
            self._answer({})

        def _create(self, wanted: dict[str, Any]) -> None:
            name = (
                f"{wanted['organization']}/{wanted['name']}" if wanted.get("organization") else f"ada/{wanted['name']}"
            )
            status = 409 if name in hub.repositories else 200
            hub.repositories.setdefault(name, {".gitattributes": b""})
            hub.private.setdefault(name, bool(wanted.get("private") or wanted.get("visibility") == "private"))
            self._answer({"url": f"{hub.endpoint}/{name}", "name": name}, status)

        def _commit(self, name: str, lines: list[dict[str, Any]]) -> None:
            files = hub.repositories[name]
            for line in lines:
                value = line["value"]
                if line["key"] == "header":
                    hub.commits.append(value)
                elif line["key"] == "file":
                    files[value["path"]] = base64.b64decode(value["content"])
                elif line["key"] == "deletedFile":
                    del files[value["path"]]
                elif line["key"] == "lfsFile":
                    files[value["path"]] = hub.blobs[value["oid"]]
            sha = _sha(hub)
            self._answer({"success": True, "commitOid": sha, "commitUrl": f"{hub.endpoint}/{name}/commit/{sha}"})

        def _body(self) -> bytes:
            if self.headers.get("Transfer-Encoding") != "chunked":
                return self.rfile.read(int(self.headers.get("Content-Length") or 0))
            parts = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)

        def _answer(self, value: Any, status: int = 200, headers: dict[str, str] | None = None) -> None:
            body = json.dumps(value).encode()
            self.send_response(status)
            for key, text in {
                "Content-Type": "application/json",
                "Content-Length": str(len(body)),
                **(headers or {}),
            }.items():
                self.send_header(key, text)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    hub.endpoint = f"http://127.0.0.1:{server.server_address[1]}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()


def _repository(path: str) -> str:
    parts = path.partition("?")[0].removeprefix("/api/models").strip("/").split("/")
    return "/".join(parts[:2])


def _sha(hub: UploadHub) -> str:
    return f"{len(hub.commits):040x}"


def _git_id(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()  # noqa: S324 - git's own


def _mode(hub: UploadHub, name: str, file: dict[str, Any]) -> dict[str, Any]:
    """Small text is kept in git, the rest beside it, as on the hub; an oid is of what is there already."""
    large = file["path"].endswith((".safetensors", ".gguf"))
    known = hub.repositories[name].get(file["path"])
    oid = {} if known is None else {"oid": hashlib.sha256(known).hexdigest() if large else _git_id(known)}
    return {"path": file["path"], "uploadMode": "lfs" if large else "regular", "shouldIgnore": False, **oid}


def _action(hub: UploadHub, entry: dict[str, Any]) -> dict[str, Any]:
    if entry["oid"] in hub.blobs:
        return dict(entry)
    return {**entry, "actions": {"upload": {"href": f"{hub.endpoint}/upload/{entry['oid']}"}}}


def _description(hub: UploadHub, name: str) -> dict[str, Any]:
    files = hub.repositories[name]
    front = files.get("README.md", b"").decode().split("---\n")
    card = yaml.safe_load(front[1]) if len(front) > 2 else None
    siblings = [{"rfilename": path} for path in files]
    return {
        "id": name,
        "sha": _sha(hub),
        "siblings": siblings,
        "tags": [],
        "private": hub.private[name],
        "cardData": card,
    }
