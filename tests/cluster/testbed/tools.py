"""The Go programs of the testbed, compiled once into the user's cache folder, each under its version.

A compiled program is kept as `NAME-VERSION`, so a changed version is compiled anew and two checkouts can share the folder.
Minutes are those of 2 idle cores with an empty Go cache.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from testbed.processes import TestbedError, run

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "kubernetes-cluster"
KUBERNETES = "1.36.3"
COMPONENTS = Path(__file__).resolve().parent.parent / "components"


@dataclass(frozen=True)
class Tool:
    """A Go program: from a package at a version, or from a module of ours in components/ that pins it."""

    name: str
    version: str
    package: str
    minutes: float
    module: str = ""
    tags: str = ""
    stamps: tuple[tuple[str, str], ...] = ()

    @property
    def path(self) -> Path:
        """Where the program lies once it is compiled; a module of ours is part of the name by its pins."""
        pins = (
            f"-{hashlib.sha256((COMPONENTS / self.module / 'go.sum').read_bytes()).hexdigest()[:8]}"
            if self.module
            else ""
        )
        return CACHE / f"{self.name}-{self.version}{pins}"

    def compile(self) -> None:
        """Compile the program; it appears under its name only when it is whole."""
        CACHE.mkdir(parents=True, exist_ok=True)
        flags = " ".join(["-s", "-w", *(f"-X {key}={value}" for key, value in self.stamps)])
        # buildvcs: a checkout that belongs to somebody else makes Go refuse to stamp the commit.
        options = ["-buildvcs=false", f"-ldflags={flags}", *([f"-tags={self.tags}"] if self.tags else [])]
        with tempfile.TemporaryDirectory(dir=CACHE, prefix=f".{self.name}-") as folder:
            environment = {"CGO_ENABLED": "0", "GOBIN": folder, "GOFLAGS": "-mod=readonly" if self.module else ""}
            if self.module:
                target = Path(folder) / self.name
                command = ["go", "build", *options, "-o", str(target), self.package]
                run("nice", *command, folder=COMPONENTS / self.module, environment=environment)
            else:
                run("nice", "go", "install", *options, f"{self.package}@v{self.version}", environment=environment)
            (Path(folder) / self.name).rename(self.path)


_MAJOR, _MINOR, _ = KUBERNETES.split(".")
TOOLS = {
    tool.name: tool
    for tool in (
        Tool(
            "kubernetes",
            KUBERNETES,
            ".",
            minutes=5,
            module="kubernetes",
            stamps=(
                ("k8s.io/component-base/version.gitVersion", f"v{KUBERNETES}"),
                ("k8s.io/component-base/version.gitMajor", _MAJOR),
                ("k8s.io/component-base/version.gitMinor", _MINOR),
            ),
        ),
        Tool("coredns", "1.12.1", "github.com/coredns/coredns", minutes=2),
        Tool("versitygw", "1.8.0", "github.com/versity/versitygw/cmd/versitygw", minutes=1),
        Tool("registry", "3.1.2", "github.com/distribution/distribution/v3/cmd/registry", minutes=2),
        Tool("helm", "4.3.1", "helm.sh/helm/v4/cmd/helm", minutes=2),
        Tool(
            "prometheus",
            "0.307.3",
            "github.com/prometheus/prometheus/cmd/prometheus",
            minutes=3,
            module="prometheus",
            tags="remove_all_sd,enable_kubernetes_sd",
        ),
        Tool("kubeconform", "0.8.0", "github.com/yannh/kubeconform/cmd/kubeconform", minutes=1),
        Tool("kwok", "0.8.0", "sigs.k8s.io/kwok/cmd/kwok", minutes=1),
    )
}
CONTROL_PLANE = ("kubernetes",)
NODE = (*CONTROL_PLANE, "coredns")
TEST_CLUSTER = (*NODE, "versitygw", "registry", "helm", "prometheus")


def ensure(*names: str) -> None:
    """Compile the tools that are not in the cache yet, one after the other (each takes all cores), saying how long it takes."""
    absent = [TOOLS[name] for name in names if not TOOLS[name].path.exists()]
    if absent and shutil.which("go") is None:
        raise TestbedError(
            f"Go is needed to compile {', '.join(tool.name for tool in absent)} and is not on PATH. "
            "Install it (https://go.dev/doc/install) and run the same command again."
        )
    for tool in absent:
        print(f"building {tool.name} {tool.version} (about {tool.minutes:.0f} min, once)…", file=sys.stderr, flush=True)
        start = time.monotonic()
        tool.compile()
        print(f"built {tool.name} {tool.version} in {time.monotonic() - start:.0f} s", file=sys.stderr, flush=True)


def path(name: str) -> Path:
    """The compiled program, compiled now when it is not there."""
    ensure(name)
    return TOOLS[name].path
