"""A disk that is soon full, for tests: a tmpfs of some bytes that only one process sees."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path
from typing import Final

_NEW_MOUNTS: Final = 0x00020000
_NEW_USERS: Final = 0x10000000
_PRIVATE: Final = (1 << 18) | (1 << 14)  # MS_PRIVATE | MS_REC


def mount_small_disk(folder: Path, size: int) -> None:
    """Mount it on a folder for this process and its children; a process of one thread needs no right for it, where user namespaces are allowed."""
    libc = ctypes.CDLL(None, use_errno=True)

    def call(name: str, *arguments: object) -> None:
        if getattr(libc, name)(*arguments) != 0:
            number = ctypes.get_errno()
            raise OSError(number, f"{name}: {os.strerror(number)}")

    folder.mkdir(parents=True, exist_ok=True)
    user, group = os.getuid(), os.getgid()
    call("unshare", _NEW_MOUNTS if user == 0 else _NEW_MOUNTS | _NEW_USERS)
    if user != 0:
        for name, text in (("setgroups", "deny"), ("uid_map", f"0 {user} 1"), ("gid_map", f"0 {group} 1")):
            Path("/proc/self", name).write_text(text)
    call("mount", b"none", b"/", None, ctypes.c_ulong(_PRIVATE), None)
    call("mount", b"tmpfs", str(folder).encode(), b"tmpfs", ctypes.c_ulong(0), f"size={size}".encode())
