"""The result as an OCI artifact: one blob per file, in the format of ModelPack, which `oras pull` writes as the same folder.

ModelPack (github.com/modelpack/model-spec, a CNCF project) has a written specification that is not one tool's own: artifact type, config and
media types are its. Files are blobs as they are (`.raw`, no archive), so that equal files of two jobs are kept once and a second push sends nothing.
`org.opencontainers.image.title` beside ModelPack's own annotation is what ORAS names files by.

The requests are oras-py's (oras-project/oras-py), but for three things that it does otherwise: it tries two minutes to get past a refusal, it reads
a whole file into memory to send it, and it goes on with a token that has expired.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import oras.provider
import requests

from finetune_operator.api.constants import REGISTRY_CA_FILE, REGISTRY_CONFIG_FILE, REGISTRY_VARIABLE
from finetune_operator.api.manifest import FileEntry
from finetune_trainer.storage_errors import StorageError, StorageRefused, StorageUnavailable

ARTIFACT_TYPE: Final = "application/vnd.cncf.model.manifest.v1+json"
CONFIG_TYPE: Final = "application/vnd.cncf.model.config.v1+json"
MANIFEST_TYPE: Final = "application/vnd.oci.image.manifest.v1+json"
WEIGHTS_TYPE: Final = "application/vnd.cncf.model.weight.v1.raw"
SETTINGS_TYPE: Final = "application/vnd.cncf.model.weight.config.v1.raw"
DOCUMENT_TYPE: Final = "application/vnd.cncf.model.doc.v1.raw"
FILE_ANNOTATION: Final = "org.cncf.model.filepath"
TITLE_ANNOTATION: Final = "org.opencontainers.image.title"
UID_ANNOTATION: Final = "dev.finetune-operator.uid"
JOB_ANNOTATION: Final = "dev.finetune-operator.job"
PAUSES_SECONDS: Final = (1.0, 4.0, 15.0)
TIMEOUT_SECONDS: Final = 60.0
"""Without any byte of an answer."""
_HOSTS_WITHOUT_TLS: Final = ("localhost", "127.0.0.1")
_ACCESS: Final = "check the Secret of credentials.registry"


class _Requests(oras.provider.Registry):  # type: ignore[misc] # the package has no types
    """oras-py with one try per request, sent as it is read."""

    def do_request(self, url: str, method: str = "GET", **more: Any) -> requests.Response:
        once = oras.provider.Registry.do_request.__wrapped__
        answer: requests.Response = once(self, url, method, **more)
        if answer.status_code == 401 and getattr(self.auth, "token", None):
            self.auth.token = None
            if hasattr(more.get("data"), "seek"):
                more["data"].seek(0)
            answer = once(self, url, method, **more)
        return answer


class OciRepository:
    """The repository and tag that output.oci names."""

    def __init__(self, reference: str, environment: Mapping[str, str] = os.environ) -> None:
        self.reference = reference
        host = reference.split("/", 1)[0].rsplit(":", 1)[0]
        folder = environment.get(REGISTRY_VARIABLE)
        config = Path(folder) / REGISTRY_CONFIG_FILE if folder else None
        authority = Path(folder) / REGISTRY_CA_FILE if folder else None
        verify: bool | str = str(authority) if authority is not None and authority.is_file() else True
        self._insecure = host in _HOSTS_WITHOUT_TLS and verify is True
        self._config = str(config) if config is not None and config.is_file() else None
        self._verify = verify
        self._pauses = PAUSES_SECONDS
        self._registry: _Requests | None = None

    def owner(self) -> str | None:
        """Return the uid of the job whose model the tag names, "" when it is not a job's, None when there is none."""
        answer = self._ask("GET", f"manifests/{self._container().tag}", headers={"Accept": MANIFEST_TYPE})
        if answer.status_code == 404:
            return None
        self._must(answer, 200)
        try:
            return str((answer.json().get("annotations") or {}).get(UID_ANNOTATION, ""))
        except (ValueError, AttributeError):
            return ""

    def check_writable(self) -> None:
        """Begin an upload and give it up; a refusal is a StorageRefused that says what to mend."""
        answer = self._ask("POST", "blobs/uploads/", headers={"Content-Length": "0"})
        self._must(answer, 202)
        location = self._open()._get_location(answer, self._container())
        self._send(location, "DELETE")  # where that is not offered, the registry forgets it after a while

    def push(
        self, folder: Path, files: Sequence[FileEntry], config: Mapping[str, Any], notes: Mapping[str, str]
    ) -> str:
        """Upload what the repository does not have yet, then the manifest under the tag, and return the manifest's digest."""
        layers = [
            {
                "mediaType": _media_type(entry.name),
                "digest": f"sha256:{entry.sha256}",
                "size": entry.size,
                "annotations": {FILE_ANNOTATION: entry.name, TITLE_ANNOTATION: entry.name},
            }
            for entry in files
        ]
        for entry, layer in zip(files, layers, strict=True):
            self._upload(folder / entry.name, layer)
        content = json.dumps(
            {**config, "modelfs": {"type": "layers", "diffIds": [layer["digest"] for layer in layers]}}
        )
        manifest = {
            "schemaVersion": 2,
            "mediaType": MANIFEST_TYPE,
            "artifactType": ARTIFACT_TYPE,
            "config": self._upload_text(content, CONFIG_TYPE),
            "layers": layers,
            "annotations": dict(notes),
        }
        body = json.dumps(manifest, separators=(",", ":")).encode()
        digest = f"sha256:{hashlib.sha256(body).hexdigest()}"
        tag = f"manifests/{self._container().tag}"
        known = self._ask("HEAD", tag, headers={"Accept": MANIFEST_TYPE})
        if known.status_code != 200 or known.headers.get("Docker-Content-Digest") != digest:
            self._must(self._ask("PUT", tag, headers={"Content-Type": MANIFEST_TYPE}, data=body), 201)
        return digest

    def _upload_text(self, text: str, kind: str) -> dict[str, Any]:
        with tempfile.NamedTemporaryFile() as file:
            file.write(text.encode())
            file.flush()
            digest = hashlib.sha256(text.encode()).hexdigest()
            layer = {"mediaType": kind, "digest": f"sha256:{digest}", "size": len(text.encode())}
            self._upload(Path(file.name), layer)
        return layer

    def _upload(self, path: Path, layer: dict[str, Any]) -> None:
        answer = self._ask("HEAD", f"blobs/{layer['digest']}")
        if answer.status_code == 200:
            return
        for pause in (*self._pauses, None):
            try:
                begun = self._ask("POST", "blobs/uploads/", headers={"Content-Length": "0"})
                self._must(begun, 202)
                location = self._open()._get_location(begun, self._container())
                joint = "&" if "?" in location else "?"
                headers = {"Content-Type": "application/octet-stream", "Content-Length": str(layer["size"])}
                with path.open("rb") as file:
                    body = file if layer["size"] else b""
                    self._must(
                        self._send(f"{location}{joint}digest={layer['digest']}", "PUT", headers=headers, data=body), 201
                    )
                return
            except StorageUnavailable:
                if pause is None:
                    raise
                time.sleep(pause)

    def _ask(self, method: str, path: str, **more: Any) -> requests.Response:
        """Send a small request, again when the registry does not answer."""
        for pause in (*self._pauses, None):
            try:
                container = self._container()
                url = f"{self._open().prefix}://{container.registry}/v2/{container.api_prefix}/{path}"
                answer = self._send(url, method, **more)
                if answer.status_code >= 500 or answer.status_code == 429:
                    self._must(answer, 200)
                return answer
            except StorageUnavailable:
                if pause is None:
                    raise
                time.sleep(pause)
        raise AssertionError("the last try returns or raises")

    def _send(self, url: str, method: str, **more: Any) -> requests.Response:
        try:
            return self._open().do_request(url, method, **more)
        except requests.exceptions.SSLError:
            remedy = f"put its authority's certificate into the Secret of credentials.registry as {REGISTRY_CA_FILE}"
            raise StorageRefused(self.reference, "the registry's TLS certificate was not accepted", remedy) from None
        except requests.exceptions.RequestException as error:
            raise self._silent(error) from None
        except ValueError:  # oras-py, of a 401 or 403 that it has no answer to
            raise StorageRefused(self.reference, "the registry refuses access", _ACCESS) from None

    def _silent(self, error: Exception) -> StorageError:
        return StorageUnavailable(
            self.reference, f"the registry does not answer ({type(error).__name__})", "check output.oci and the network"
        )

    def _must(self, answer: requests.Response, wanted: int) -> None:
        status = answer.status_code
        if status == wanted:
            return
        said = f"HTTP {status}"
        if status in (401, 403):
            raise StorageRefused(self.reference, f"the registry refuses access ({said})", _ACCESS)
        if 400 <= status < 500 and status not in (408, 429):
            raise StorageRefused(
                self.reference,
                f"the registry refuses the request ({said})",
                "check output.oci and the repository's rights",
            )
        raise StorageUnavailable(self.reference, f"the registry answered {said}", "it is tried again")

    def _container(self) -> Any:
        return oras.provider.Registry(insecure=self._insecure).get_container(self.reference)

    def _open(self) -> _Requests:
        """Return the client, after a look at how this registry wants to be told who we are."""
        if self._registry is None:
            container = self._container()
            scheme = "http" if self._insecure else "https"
            try:
                hello = requests.get(
                    f"{scheme}://{container.registry}/v2/", verify=self._verify, timeout=TIMEOUT_SECONDS
                )
            except requests.exceptions.SSLError:
                remedy = (
                    f"put its authority's certificate into the Secret of credentials.registry as {REGISTRY_CA_FILE}"
                )
                raise StorageRefused(
                    self.reference, "the registry's TLS certificate was not accepted", remedy
                ) from None
            except requests.exceptions.RequestException as error:
                raise self._silent(error) from None
            basic = hello.headers.get("Www-Authenticate", "").lower().startswith("basic")
            registry = _Requests(
                insecure=self._insecure, tls_verify=self._verify, auth_backend="basic" if basic else "token"
            )
            registry.auth.load_configs(container, configs=[self._config] if self._config else None)
            if basic and not getattr(registry.auth, "_basic_auth", None):
                raise StorageRefused(self.reference, "the registry wants a user and a password", _ACCESS)
            if basic:
                registry.session.headers.update(registry.auth.get_auth_header())
            self._registry = registry
        return self._registry


def _media_type(name: str) -> str:
    if name.endswith((".safetensors", ".gguf")):
        return WEIGHTS_TYPE
    return DOCUMENT_TYPE if name.endswith(".md") else SETTINGS_TYPE
