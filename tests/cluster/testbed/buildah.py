"""buildah with a storage of its own under the cache folder, so that nobody else's images are touched or counted."""

from __future__ import annotations

import fcntl
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from testbed import tools
from testbed.processes import output, run, succeeds

STORAGE = tools.CACHE / "storage"
COMMAND = ("buildah", "--root", str(STORAGE), "--runroot", "/run/kubernetes-cluster-build")


def buildah(*arguments: object) -> None:
    """Run buildah; when it fails, the end of its output becomes the error."""
    run("nice", *COMMAND, *arguments)


@contextmanager
def storage_lock() -> Iterator[None]:
    """Have the storage alone, waiting for another process's build; what a killed build left in it is removed."""
    STORAGE.parent.mkdir(parents=True, exist_ok=True)
    with STORAGE.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if STORAGE.exists():
            run(*COMMAND, "rm", "--all")
        yield


def exists(image: str) -> bool:
    """Whether an image is in the storage."""
    return STORAGE.exists() and succeeds(*COMMAND, "inspect", "--type=image", image)


def inspect(image: str) -> dict[str, Any]:
    """What buildah knows of an image."""
    found: dict[str, Any] = json.loads(output(*COMMAND, "inspect", "--type=image", image))
    return found


def tags(repository: str) -> list[str]:
    """Every full name of a repository's images in the storage."""
    if not STORAGE.exists():
        return []
    listing = output(*COMMAND, "images", "--format={{.Name}}:{{.Tag}}")
    return [name for name in listing.split() if name.startswith(f"{repository}:")]


def layer_sizes(image: str) -> list[int]:
    """The bytes of each layer as a plain tar file, the base first."""
    return [int(layer["size"]) for layer in json.loads(inspect(image)["Manifest"])["layers"]]


def layers_of(image: str) -> list[str]:
    """The digests of an image's layers as plain tar files, the base first."""
    return list(json.loads(inspect(image)["Config"])["rootfs"]["diff_ids"])
