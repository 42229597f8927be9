"""Object storage for all parts that run in pods: s3, gs, az and file through obstore, hf read-only through huggingface_hub.

One small interface, because three things must hold everywhere: every byte that is read or written for keeps is hashed on the way, every
wait is bounded, and every failure is either something a person must mend (`StorageRefused`) or something only time mends
(`StorageUnavailable`). The stores' own error texts are never passed on: S3 puts the access key id into them, Azure the signed URL.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Final, Self, TypeVar

import obstore
from obstore import exceptions
from obstore.store import AzureStore, GCSStore, LocalStore, ObjectStore, S3Store

from finetune_trainer.storage_errors import AlreadyExists, StorageRefused, StorageUnavailable, translated
from finetune_trainer.storage_interface import Storage, Stored, StoredFile
from finetune_trainer.storage_location import Location, parse_location
from finetune_trainer.storage_streams import MEBIBYTE, HashingSink, read_stream, write_stream

__all__ = [
    "AlreadyExists",
    "ObjectStorage",
    "Storage",
    "StorageRefused",
    "StorageSettings",
    "StorageUnavailable",
    "Stored",
    "StoredFile",
    "open_storage",
    "open_writable",
]

PART_BYTES: Final = 32 * MEBIBYTE
MAXIMUM_PARTS: Final = 9000
"""S3 allows 10,000 parts; a file of more than 281 GiB gets larger parts."""
CONCURRENT_PARTS: Final = 4
SMALL_BYTES: Final = MEBIBYTE
"""Above this a conditional PUT is unsafe: versitygw answers 412 before it has read the body, which shows as a connection error from 4 MiB on."""

_T = TypeVar("_T")


@dataclass(frozen=True)
class StorageSettings:
    """How long a store may take. The library's own 30 s per request are too short for a 32 MiB part over a slow line."""

    request_timeout: timedelta = timedelta(seconds=300)
    connect_timeout: timedelta = timedelta(seconds=10)
    retries: int = 5
    retry_timeout: timedelta = timedelta(seconds=120)


class ObjectStorage:
    """A folder in a bucket or in a local file system, through obstore."""

    def __init__(self, location: Location, store: ObjectStore) -> None:
        self._location = location
        self._store = store

    @property
    def uri(self) -> str:
        """The folder's location, without a trailing slash."""
        return self._location.uri

    def child(self, name: str) -> Self:
        """Return the folder `name` below this one."""
        return type(self)(self._location.child(name), self._store)

    def list(self, prefix: str = "") -> Iterator[StoredFile]:
        """Yield every file below the folder `prefix`, in the order of names. A folder that is not there has none."""
        found = self._call(prefix, lambda: obstore.list(self._store, self._key(prefix) or None).collect())
        root = len(self._location.path) + 1 if self._location.path else 0
        for meta in sorted(found, key=lambda meta: meta["path"]):
            yield self._stored(meta["path"][root:], meta["size"], meta["e_tag"])

    def head(self, name: str) -> StoredFile:
        """Return what is known about one file without reading it."""
        meta = self._call(name, lambda: obstore.head(self._store, self._key(name)))
        return self._stored(name, meta["size"], meta["e_tag"])

    def exists(self, name: str) -> bool:
        """Return whether a file is there; a store that refuses to say raises."""
        try:
            self._call(name, lambda: obstore.head(self._store, self._key(name)))
        except StorageRefused as error:
            if error.missing:
                return False
            raise
        return True

    def read(self, name: str) -> bytes:
        """Return a small file's content."""
        return self._call(name, lambda: bytes(obstore.get(self._store, self._key(name)).bytes()))

    def read_range(self, name: str, start: int, end: int) -> bytes:
        """Return the bytes [start, end) of a file, fewer where it ends earlier."""
        options: obstore.GetOptions = {"range": (start, end)}
        return self._call(name, lambda: bytes(obstore.get(self._store, self._key(name), options=options).bytes()))

    def stream(self, name: str) -> Iterator[bytes]:
        """Yield a file's content in order, with bounded memory; a file that changes meanwhile is StorageUnavailable."""
        meta = self._call(name, lambda: obstore.head(self._store, self._key(name)))
        size, etag = meta["size"], meta["e_tag"]

        def part(start: int, end: int) -> bytes:
            # Ranges instead of one long GET: the request timeout covers the body, and each range is retried on its own.
            options: obstore.GetOptions = {"range": (start, end)}
            if etag is not None:
                options["if_match"] = etag
            return self._call(name, lambda: bytes(obstore.get(self._store, self._key(name), options=options).bytes()))

        return read_stream(part, size)

    def download(self, name: str, target: Path) -> Stored:
        """Write a file's content to `target`, complete or not at all, and return its size and digest."""
        return write_stream(self.stream(name), target)

    def upload(self, source: Path, name: str) -> Stored:
        """Copy a local file to `name`, replacing what is there, and return the size and digest of what was sent."""
        digest = hashlib.sha256()
        sent = 0
        size = source.stat().st_size

        def chunks() -> Iterator[bytes]:
            nonlocal sent
            with source.open("rb") as file:
                while chunk := file.read(8 * MEBIBYTE):
                    digest.update(chunk)
                    sent += len(chunk)
                    yield chunk

        part = max(PART_BYTES, -(-size // MAXIMUM_PARTS))
        if size <= part:
            content = b"".join(chunks())
            self._call(name, lambda: obstore.put(self._store, self._key(name), content, use_multipart=False))
        else:
            self._call(
                name,
                lambda: obstore.put(
                    self._store, self._key(name), chunks(), chunk_size=part, max_concurrency=CONCURRENT_PARTS
                ),
            )
        return Stored(sent, digest.hexdigest())

    def write(self, name: str, content: Callable[[HashingSink], object], size: int) -> Stored:
        """Send what `content` writes, about `size` bytes, to `name`, replacing what is there, and return the size and digest of what was sent."""
        part = max(PART_BYTES, -(-size // MAXIMUM_PARTS))
        target = self._call(
            name,
            lambda: obstore.open_writer(
                self._store, self._key(name), buffer_size=part, max_concurrency=CONCURRENT_PARTS
            ),
        )
        sink = HashingSink(target)
        content(sink)
        # What went wrong comes out here: serialisers that are left by an exception may not survive it.
        self._call(name, sink.close)
        return sink.stored

    def put_small(self, name: str, data: bytes, *, create_only: bool = False) -> None:
        """Write a small file at once; with `create_only` an existing one is AlreadyExists and stays as it is."""
        if len(data) > SMALL_BYTES:
            raise ValueError(f"put_small is for up to {SMALL_BYTES} bytes, not {len(data)}; use upload for {name}")
        mode: obstore.PutMode = "create" if create_only else "overwrite"
        self._call(name, lambda: obstore.put(self._store, self._key(name), data, mode=mode, use_multipart=False))

    def delete(self, name: str) -> None:
        """Delete one file; one that is not there is deleted already."""
        try:
            self._call(name, lambda: obstore.delete(self._store, self._key(name)))
        except StorageRefused as error:
            if not error.missing:
                raise

    def delete_prefix(self, prefix: str) -> int:
        """Delete every file below the folder `prefix` (never the whole storage) and return how many there were."""
        if not prefix.strip("/"):
            raise ValueError("delete_prefix needs the name of a folder below the storage's root")
        names = [file.name for file in self.list(prefix)]
        if names:
            self._call(prefix, lambda: obstore.delete(self._store, [self._key(name) for name in names]))
        if isinstance(self._store, LocalStore):
            shutil.rmtree(Path("/", self._key(prefix)), ignore_errors=True)
        return len(names)

    def _key(self, name: str) -> str:
        return "/".join(part for part in (self._location.path, name.strip("/")) if part)

    def _stored(self, name: str, size: int, etag: str | None) -> StoredFile:
        if isinstance(self._store, LocalStore):
            # obstore's ETag of a local file has its inode in it, which a copy of the same folder does not keep.
            etag = str(Path("/", self._key(name)).stat().st_mtime_ns)
        return StoredFile(name, self._location.child(name).uri, size, etag)

    def _call(self, name: str, action: Callable[[], _T]) -> _T:
        try:
            return action()
        except (exceptions.BaseError, OSError, ValueError) as error:
            raise translated(error, self._location.child(name).uri) from None


def open_storage(uri: str, settings: StorageSettings | None = None, *, revision: str | None = None) -> Storage:
    """Return the folder at `uri` for reading; `revision` applies to hf:// only."""
    location = parse_location(uri)
    if location.scheme == "hf":
        from finetune_trainer.storage_hub import open_hub  # 0.3 s of imports that only hf:// needs

        return open_hub(location, revision)
    return open_writable(uri, settings)


def open_writable(uri: str, settings: StorageSettings | None = None) -> ObjectStorage:
    """Return the folder at `uri` for reading and writing."""
    location = parse_location(uri)
    settings = settings or StorageSettings()
    try:
        return ObjectStorage(location, _store(location, settings))
    except (exceptions.BaseError, OSError, ValueError) as error:
        raise translated(error, uri) from None


def _store(location: Location, settings: StorageSettings) -> ObjectStore:
    if location.scheme == "file":
        return LocalStore()
    retry: obstore.store.RetryConfig = {"max_retries": settings.retries, "retry_timeout": settings.retry_timeout}
    client: obstore.store.ClientConfig = {
        "timeout": settings.request_timeout,
        "connect_timeout": settings.connect_timeout,
    }
    if location.scheme == "gs":
        return GCSStore(location.bucket, client_options=client, retry_config=retry)
    if location.scheme == "az":
        return AzureStore(location.bucket, client_options=client, retry_config=retry)
    if location.scheme != "s3":
        raise StorageRefused(
            location.uri, f"{location.scheme}:// cannot be written", "use s3://, gs://, az:// or file://"
        )
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or "us-east-1"
    if endpoint is None:
        return S3Store(location.bucket, region=region, client_options=client, retry_config=retry)
    if endpoint.startswith("http://"):
        client["allow_http"] = True
    return S3Store(location.bucket, region=region, endpoint=endpoint, client_options=client, retry_config=retry)
