"""A base image without a registry: a minimal Debian with Python, made by debootstrap from Debian's packages.

It stands in for the public Python slim image, which is the Dockerfiles' default, where no registry can be reached.
128 MB, as that image is; 45 s to make, once.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from pathlib import Path

from testbed import tools
from testbed.buildah import buildah, exists
from testbed.processes import run

RELEASE = "bookworm"
PACKAGES = ("ca-certificates", "python3", "python3-venv")
USELESS = ("usr/share/doc", "usr/share/info", "usr/share/locale", "usr/share/man", "var/cache/apt", "var/lib/apt/lists")
DOCKERFILE = """FROM scratch
ADD root.tar /
CMD ["python3"]
"""


def base_image() -> str:
    """The base image's name, after making it when it is absent. Another mirror: DEBIAN_MIRROR."""
    recipe = hashlib.sha256(repr((RELEASE, PACKAGES, USELESS, DOCKERFILE)).encode()).hexdigest()[:12]
    name = f"localhost/debian-python:{RELEASE}-{recipe}"
    if not exists(name):
        print(f"making the base image {name} (about 1 min, once)…", flush=True)
        with tempfile.TemporaryDirectory(dir=tools.CACHE, prefix=".base-") as folder:
            make(Path(folder), name)
    return name


def make(folder: Path, name: str) -> None:
    """Bootstrap into a folder, strip what a container does not read, and import the rest as one layer."""
    root = folder / "root"
    mirror = os.environ.get("DEBIAN_MIRROR")
    options = ["--variant=minbase", f"--include={','.join(PACKAGES)}"]
    run("nice", "debootstrap", *options, RELEASE, root, *([mirror] if mirror else []))
    for useless in USELESS:
        shutil.rmtree(root / useless, ignore_errors=True)
        (root / useless).mkdir()
    context = folder / "context"
    context.mkdir()
    run("tar", "--directory", root, "--exclude=./dev/*", "--create", "--file", context / "root.tar", ".")
    shutil.rmtree(root)
    (context / "Dockerfile").write_text(DOCKERFILE)
    buildah("build", "--isolation", "chroot", "--tag", name, context)
