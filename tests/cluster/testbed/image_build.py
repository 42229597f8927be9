"""The project's own images, from its own Dockerfiles, built anew only when something in them changed.

An image's tag is a hash of all that goes into it, so a tag that exists is up to date. The stages before our code are tagged too
(`finetune-trainer-dependencies:…`), so that buildah's layer cache goes on from them: a change of our code costs seconds, not minutes.

    on 2 cores                            operator   inspect   trainer
    size (130 MB of each is the base)     245 MB     270 MB    6.1 GB
    build, dependencies too, warm uv      15 s       15 s      165 s
    build after a change of our code      3 s        3 s       3 s
    first load into the node              5 s        5 s       120-200 s (the disk)
    load after a change of our code       0.3 s      0.3 s     0.3 s
"""

from __future__ import annotations

import hashlib
import os
import shutil
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from testbed import packages, tools
from testbed.base_image import base_image
from testbed.buildah import buildah, exists, storage_lock, tags
from testbed.processes import TestbedError

PROJECT = Path(__file__).resolve().parents[3]
CODE = ("pyproject.toml", "operator/finetune_operator", "trainer_image/finetune_trainer")
GIB = 2**30


@dataclass(frozen=True)
class Image:
    """One image of the project, and what a first build of it costs."""

    dockerfile: str
    requirements: tuple[str, ...]
    stages: tuple[str, ...]
    """What is kept of a build besides its result: the stages that a change of our code does not touch."""
    gib: float
    """Free disk that building and loading the dependencies needs at once."""
    minutes: float

    def instructions_before_code(self) -> str:
        """The part of the Dockerfile that the kept stages come from."""
        before, found, _ = (PROJECT / self.dockerfile).read_text().partition("AS code\n")
        if not found:
            raise TestbedError(
                f"{self.dockerfile} has no stage named `code`, with which the cheap part of a build begins."
            )
        return before


SMALL = ("uv", "install", "dependencies")
IMAGES = {
    "operator": Image("operator/Dockerfile", ("requirements/operator.txt",), SMALL, gib=2, minutes=0.5),
    "inspect": Image("trainer_image/Dockerfile.inspect", ("requirements/inspect.txt",), SMALL, gib=2, minutes=0.5),
    "trainer": Image(
        "trainer_image/Dockerfile",
        (
            "requirements/trainer.txt",
            "trainer_image/build_shm_op.py",
            "trainer_image/finetune_trainer/disk_operator_build.py",
        ),
        ("uv", "dependencies"),
        gib=20,  # 6 built, 6 unpacked for the node, and 6 on the way between them
        minutes=4,
    ),
}


def build(*names: str) -> dict[str, str]:
    """Build the images that are not up to date, and return the full name of each."""
    packages.require_root("Building images")
    packages.require(*packages.IMAGES)
    with storage_lock():
        base = base_image()
        return {name: build_one(name, base) for name in names}


def build_one(name: str, base: str) -> str:
    """Build one image when it is not up to date; its outdated version is deleted."""
    image = IMAGES[name]
    repository = f"localhost/finetune-{name}"
    foundation = content_hash(image.requirements, base, image.instructions_before_code())
    stages = {stage: f"{repository}-{stage}:{foundation}" for stage in image.stages}
    reference = f"{repository}:{content_hash([image.dockerfile, '.dockerignore', *CODE], foundation)}"
    if exists(reference):
        return reference
    start = time.monotonic()
    if not all(exists(stage) for stage in stages.values()):
        # First: an outdated one and a new one at once may not fit on the disk.
        delete([tag for kept in (repository, *(f"{repository}-{stage}" for stage in stages)) for tag in tags(kept)])
        require_space(image.gib, f"building and loading the {name} image with its dependencies")
        print(f"building the dependencies of the {name} image (about {image.minutes:g} min, once)…", flush=True)
        for stage, tag in stages.items():
            build_stage(image, base, tag, f"--target={stage}")
    require_space(1, f"building the {name} image")
    build_stage(image, base, reference)
    delete([tag for tag in tags(repository) if tag != reference])
    print(f"built {reference} in {time.monotonic() - start:.0f} s", flush=True)
    return reference


def delete(outdated: Iterable[str]) -> None:
    """Delete images, and the layers that only they had."""
    for reference in outdated:
        buildah("rmi", reference)
    buildah("rmi", "--prune")


def build_stage(image: Image, base: str, reference: str, *options: str) -> None:
    """Run buildah on a Dockerfile, with what this machine's network needs mounted and nothing of it left in a layer."""
    buildah(
        "build",
        "--isolation=chroot",
        "--layers",
        f"--build-arg=BASE={base}",
        *host_options(),
        *options,
        f"--file={PROJECT / image.dockerfile}",
        f"--tag={reference}",
        PROJECT,
    )


def host_options() -> Iterator[str]:
    """Mount the machine's package cache, and its CA bundle where one is named."""
    cache = Path(os.environ.get("UV_CACHE_DIR") or Path.home() / ".cache" / "uv")
    cache.mkdir(parents=True, exist_ok=True)
    yield from (f"--volume={cache}:/var/cache/host-uv", "--build-arg=UV_CACHE_DIR=/var/cache/host-uv")
    if bundle := os.environ.get("SSL_CERT_FILE"):
        yield from (f"--volume={bundle}:/run/build-ca.crt:ro", "--build-arg=SSL_CERT_FILE=/run/build-ca.crt")


def content_hash(paths: Iterable[str], *more: str) -> str:
    """A name for the content of files and folders below the project: same files, same name."""
    digest = hashlib.sha256(repr(more).encode())
    for path in paths:
        for file in sorted(files_of(PROJECT / path)):
            content = hashlib.sha256(file.read_bytes()).hexdigest()
            digest.update(f"{file.relative_to(PROJECT)} {content}\n".encode())
    return digest.hexdigest()[:12]


def files_of(path: Path) -> Iterator[Path]:
    """A file, or every file below a folder that an image takes."""
    if path.is_file():
        yield path
    elif path.is_dir():
        yield from (file for file in path.rglob("*") if file.is_file() and "__pycache__" not in file.parts)


def require_space(gib: float, purpose: str) -> None:
    """Refuse before the disk is full, and say how much is needed and where."""
    free = shutil.disk_usage(tools.CACHE).free / GIB
    if free < gib:
        raise TestbedError(
            f"{purpose} needs {gib:g} GiB free in {tools.CACHE} and {free:.1f} GiB are. "
            "Free some, or put the cache elsewhere with XDG_CACHE_HOME."
        )
