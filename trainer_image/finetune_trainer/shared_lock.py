"""One process at a time among all pods that share a folder, also over a network file system, and when the holder was killed.

A lock is a row of files `<name>.<generation>`; whoever makes the next one has the lock, since a file is made exclusively on local disks and NFS
alike. A holder is gone when it says so, when its flock is free (asked only within one kernel: some network file systems keep flock to one client),
or when its file has not changed for `stale_seconds` on the asker's own clock: clocks of nodes differ, and NFS shows a change up to 60 s late
(acregmax, nfs(5)). A holder that only slept is then superseded and goes on beside its successor: the lock saves work, it does not protect data.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

HEARTBEAT_SECONDS: Final = 10.0
STALE_SECONDS: Final = 120.0
"""Twelve heartbeats, of which NFS may hide six."""
POLL_SECONDS: Final = 1.0
_CONTENT_BYTES: Final = 256
"""All contents have one length, so that one is never cut where it was written over a longer one."""


def kernel_id() -> str:
    """Return what all containers of a running node share and no two nodes do."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


@dataclass(frozen=True)
class LockTimes:
    """How often a holder shows that it lives, and how others wait, in seconds."""

    heartbeat: float = HEARTBEAT_SECONDS
    stale: float = STALE_SECONDS
    poll: float = POLL_SECONDS


class SharedLock:
    """The lock `name` in `folder`."""

    def __init__(self, folder: Path, name: str, *, times: LockTimes | None = None, kernel: str | None = None) -> None:
        self._folder, self._name = folder, name
        self._times = times or LockTimes()
        self._kernel = kernel_id() if kernel is None else kernel

    def acquire(
        self, unless: Callable[[], bool], waiting: Callable[[str], object] = lambda holder: None
    ) -> Held | None:
        """Return the lock once nobody else has it, or None as soon as `unless` holds.

        `waiting` is told the present holder, once each. Errors of the file system are OSErrors.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        seen: tuple[int, bytes] | None = None
        since = time.monotonic()
        told: int | None = None
        while not unless():
            newest = self._newest()
            content = self._content(newest)
            if newest == 0 or (content is not None and self._is_over(newest, content)):
                if (held := self._take(newest + 1)) is not None:
                    return held
                continue
            now = (newest, content or b"")
            if now != seen:
                seen, since = now, time.monotonic()
            elif time.monotonic() - since >= self._times.stale:
                if (held := self._take(newest + 1)) is not None:
                    return held
                continue
            if told != newest:
                told = newest
                waiting(str(_fields(content or b"").get("holder", "another process")))
            time.sleep(self._times.poll)
        return None

    def _take(self, generation: int) -> Held | None:
        path = self._path(generation)
        try:
            file = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o664)
        except FileExistsError:
            return None
        if self._newest() > generation:
            # The folder was listed late (NFS keeps listings for a while): this generation was over and removed long ago.
            os.close(file)
            path.unlink(missing_ok=True)
            return None
        held = Held(file, self._kernel, self._times, superseded=lambda: self._newest() > generation)
        for older in self._generations():
            if older < generation:
                self._path(older).unlink(missing_ok=True)
        return held

    def _is_over(self, generation: int, content: bytes) -> bool:
        fields = _fields(content)
        if fields.get("released"):
            return True
        if fields.get("kernel") != self._kernel or not fields.get("locked"):
            return False
        try:
            file = os.open(self._path(generation), os.O_RDONLY)
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        else:
            return True
        finally:
            os.close(file)

    def _content(self, generation: int) -> bytes | None:
        try:
            return self._path(generation).read_bytes()
        except FileNotFoundError:
            return None

    def _newest(self) -> int:
        return max(self._generations(), default=0)

    def _generations(self) -> list[int]:
        found = (path.name.removeprefix(f"{self._name}.") for path in self._folder.glob(f"{self._name}.*"))
        return [int(number) for number in found if number.isdigit()]

    def _path(self, generation: int) -> Path:
        return self._folder / f"{self._name}.{generation}"


class Held:
    """A lock that this process has, from its making to `release`, the end of a `with` block, or the process's end."""

    def __init__(self, file: int, kernel: str, times: LockTimes, *, superseded: Callable[[], bool]) -> None:
        self._file, self._kernel, self._superseded = file, kernel, superseded
        self._locked = _flock(file)
        self._beat = 0
        self._write(released=False)
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._live, args=(times.heartbeat,), name="lock-heartbeat", daemon=True)
        self._thread.start()

    def is_superseded(self) -> bool:
        """Whether others took this process for dead and one of them has the lock now."""
        return self._superseded()

    def release(self) -> None:
        """Let others have it."""
        self._end.set()
        self._thread.join()
        try:
            self._write(released=True)
        finally:
            os.close(self._file)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def _live(self, seconds: float) -> None:
        while not self._end.wait(seconds):
            try:
                self._write(released=False)
            except OSError as error:
                print(
                    f"the lock of the model cache cannot be kept alive: {error.strerror}; others may take it",
                    flush=True,
                )

    def _write(self, *, released: bool) -> None:
        self._beat += 1
        fields = {
            "holder": f"{socket.gethostname()[:63]}/{os.getpid()}",
            "kernel": self._kernel,
            "locked": self._locked,
            "beat": self._beat,
            "released": released,
        }
        # In place, never renamed over: an NFS client that has looked at the file before asks for its attributes when it opens it again.
        os.pwrite(self._file, json.dumps(fields).encode().ljust(_CONTENT_BYTES), 0)


def _flock(file: int) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL):
            return False
        raise
    return True


def _fields(content: bytes) -> dict[str, Any]:
    try:
        fields = json.loads(content)
    except ValueError:
        return {}
    return fields if isinstance(fields, dict) else {}
