"""The Debian packages behind a real node and an image build, installed when a program is absent."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from testbed.processes import TestbedError, run


@dataclass(frozen=True)
class Package:
    """A Debian package, and a file or program whose presence shows that it is there."""

    name: str
    shows: str

    def is_present(self) -> bool:
        """Whether the program is there, whichever package brought it."""
        return Path(self.shows).exists() if self.shows.startswith("/") else shutil.which(self.shows) is not None


CONTROL_PLANE = (Package("openssl", "openssl"),)
NODE = (
    *CONTROL_PLANE,
    Package("containerd", "containerd"),
    Package("runc", "runc"),
    Package("containernetworking-plugins", "/usr/lib/cni/bridge"),
    Package("iptables", "iptables"),
    Package("iproute2", "ip"),
    Package("conntrack", "conntrack"),
    Package("procps", "sysctl"),
    Package("gcc", "cc"),  # the sandbox image's one static program
    Package("libc6-dev", "/usr/include/stdlib.h"),
)
TRAINING = (Package("libaio-dev", "/usr/include/libaio.h"),)
IMAGES = (
    Package("buildah", "buildah"),
    Package("debootstrap", "debootstrap"),
    Package("debian-archive-keyring", "/usr/share/keyrings/debian-archive-keyring.gpg"),
)


def require(*packages: Package) -> None:
    """Install the packages that are absent; needs root and apt-get, and says so otherwise."""
    absent = sorted({package.name for package in packages if not package.is_present()})
    if not absent:
        return
    install = f"apt-get install -y --no-install-recommends {' '.join(absent)}"
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        raise TestbedError(f"These programs are needed and absent here: {', '.join(absent)}. As root: {install}")
    print(f"installing {' '.join(absent)} (about a minute, once)…", flush=True)
    environment = {"DEBIAN_FRONTEND": "noninteractive"}
    run("apt-get", "update", environment=environment)
    run(*install.split(), environment=environment)


def require_root(purpose: str) -> None:
    """Refuse early, instead of half-way through."""
    if os.geteuid() != 0:
        raise TestbedError(f"{purpose} needs root (network bridge, mounts, containers). Run it as root.")
