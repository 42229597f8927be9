"""hf:// locations, read-only: models and data sets of a hub, pinned to one commit from the first question on.

The commit is resolved once, when the location is opened, and every later read names it: a push in the middle of a job cannot mix two
versions. Files are read by ranges, so that inspection takes the headers of a 140 GB model and not its weights.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import httpx
from huggingface_hub import HfApi, hf_hub_url
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import (  # type: ignore[attr-defined] # public by its docs, but not re-exported explicitly
    build_hf_headers,
    hf_raise_for_status,
    http_backoff,
)

from finetune_trainer.storage_errors import StorageError, StorageRefused, StorageUnavailable
from finetune_trainer.storage_interface import Stored, StoredFile
from finetune_trainer.storage_location import Location
from finetune_trainer.storage_streams import read_stream, write_stream

REQUEST_TIMEOUT_SECONDS: Final = 60.0
RETRIES: Final = 4
_ACCESS: Final = "check HF_TOKEN in the Secret of credentials.model"


@dataclass(frozen=True)
class HubFile:
    """One file of a repository at one commit."""

    size: int
    digest: str
    """The sha256 of a large file, else git's id of the blob."""
    is_sha256: bool


class HubStorage:
    """A repository, or a folder in it, at one commit."""

    def __init__(self, location: Location, revision: str, files: dict[str, HubFile], endpoint: str | None) -> None:
        self._location = location
        self._files = files
        self._endpoint = endpoint
        self.revision = revision
        """The commit that every read names."""

    @property
    def uri(self) -> str:
        """The folder's location, without a trailing slash."""
        return self._location.uri

    def list(self, prefix: str = "") -> Iterator[StoredFile]:
        """Yield every file below the folder `prefix`, in the order of names. A folder that is not there has none."""
        root = f"{self._path('')}/" if self._path("") else ""
        below = f"{self._path(prefix)}/" if self._path(prefix) else ""
        for path in sorted(self._files):
            if path.startswith(below):
                yield self.head(path.removeprefix(root))

    def head(self, name: str) -> StoredFile:
        """Return what is known about one file without reading it."""
        file = self._files.get(self._path(name))
        uri = self._location.child(name).uri
        if file is None:
            raise StorageRefused(uri, "the repository has no such file", "check the URI and the revision", missing=True)
        return StoredFile(name, uri, file.size, file.digest)

    def exists(self, name: str) -> bool:
        """Return whether a file is there."""
        return self._path(name) in self._files

    def read(self, name: str) -> bytes:
        """Return a small file's content."""
        return self.read_range(name, 0, self.head(name).size)

    def read_range(self, name: str, start: int, end: int) -> bytes:
        """Return the bytes [start, end) of a file, fewer where it ends earlier."""
        end = min(end, self.head(name).size)
        if end <= start:
            return b""
        uri = self._location.child(name).uri
        kind, repository = _repository(self._location)
        url = hf_hub_url(repository, self._path(name), repo_type=kind, revision=self.revision, endpoint=self._endpoint)
        # Without "identity" a proxy may compress, and then a range counts compressed bytes.
        headers = {**build_hf_headers(), "Range": f"bytes={start}-{end - 1}", "Accept-Encoding": "identity"}
        try:
            response = http_backoff(
                "GET", url, max_retries=RETRIES, headers=headers, follow_redirects=True, timeout=REQUEST_TIMEOUT_SECONDS
            )
            hf_raise_for_status(response)
        except (httpx.HTTPError, OSError) as error:
            raise translated(error, uri) from None
        # A server that ignores Range answers 200 with everything.
        content = response.content[start:end] if response.status_code == 200 else response.content
        if len(content) != end - start:
            raise StorageUnavailable(uri, f"got {len(content)} of {end - start} bytes", "it is tried again")
        return content

    def stream(self, name: str) -> Iterator[bytes]:
        """Yield a file's content in order, with bounded memory."""
        size = self.head(name).size
        return read_stream(lambda start, end: self.read_range(name, start, end), size)

    def download(self, name: str, target: Path) -> Stored:
        """Write a file's content to `target`, complete or not at all, and compare it with the hub's own digest."""
        stored = write_stream(self.stream(name), target)
        file = self._files[self._path(name)]
        if file.is_sha256 and file.digest != stored.sha256:
            target.unlink()
            raise StorageUnavailable(
                self._location.child(name).uri, "its sha256 is not the one that the hub names", "it is tried again"
            )
        return stored

    def _path(self, name: str) -> str:
        return self._location.child(name).path


def _repository(location: Location) -> tuple[str, str]:
    """Return the repository's kind and its org/name."""
    if location.bucket.startswith("datasets/"):
        return "dataset", location.bucket.removeprefix("datasets/")
    return "model", location.bucket


def open_hub(location: Location, revision: str | None = None, endpoint: str | None = None) -> HubStorage:
    """Return the repository at the commit that `revision` (or the location's own @revision, or main) names now."""
    kind, repository = _repository(location)
    wanted = location.revision or revision or "main"
    api = HfApi(endpoint=endpoint)
    try:
        ask = api.dataset_info if kind == "dataset" else api.model_info
        info = ask(repository, revision=wanted, files_metadata=True, timeout=REQUEST_TIMEOUT_SECONDS)
    except (httpx.HTTPError, OSError, ValueError) as error:
        raise translated(error, f"{location.uri} (revision {wanted})") from None
    files = {
        file.rfilename: HubFile(
            file.size or 0, file.lfs.sha256 if file.lfs else file.blob_id or "", is_sha256=file.lfs is not None
        )
        for file in info.siblings or []
    }
    return HubStorage(location, info.sha or wanted, files, endpoint)


def translated(error: Exception, uri: str) -> StorageError:
    """Return the error of ours for one of the hub's library; its own text is not passed on."""
    if isinstance(error, GatedRepoError):
        return StorageRefused(
            uri, "the repository is gated", f"accept its terms on the hub with your account, then {_ACCESS}"
        )
    if isinstance(error, RevisionNotFoundError):
        return StorageRefused(uri, "the repository has no such revision", "check model.revision", missing=True)
    if isinstance(error, RepositoryNotFoundError):
        return StorageRefused(
            uri, "the repository does not exist, or is private", f"check the name; {_ACCESS}", missing=True
        )
    if isinstance(error, EntryNotFoundError):
        return StorageRefused(uri, "the repository has no such file", "check the URI and the revision", missing=True)
    if isinstance(error, OfflineModeIsEnabled):
        return StorageRefused(
            uri, "HF_HUB_OFFLINE is set", "unset it, or use a model at s3://, gs://, az:// or file://"
        )
    if isinstance(error, HfHubHTTPError) and error.response is not None:
        status = error.response.status_code
        if status in (401, 403):
            return StorageRefused(uri, f"the hub refuses access (HTTP {status})", _ACCESS)
        if 400 <= status < 500 and status not in (408, 429):
            return StorageRefused(uri, f"the hub refuses the request (HTTP {status})", "check the URI and the revision")
        return StorageUnavailable(uri, f"the hub answered HTTP {status}", "it is tried again")
    if isinstance(error, ValueError):
        return StorageRefused(uri, "it is not the name of a repository", "write hf://org/name")
    return StorageUnavailable(
        uri, f"the hub does not answer ({type(error).__name__})", "check HF_ENDPOINT and the network"
    )
