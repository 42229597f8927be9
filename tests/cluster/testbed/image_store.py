"""Images into the node's containerd, moving only the layers that it lacks.

A torch image is 6 GB, and an archive of it costs a minute to write, another to read, and twice the disk. So a first load goes through a pipe,
without an archive, and afterwards containerd's compressed-layer store is emptied: the node runs from the unpacked layers.
A load after a change of our code writes a layout with the one new layer, in which the others are empty place-holders, and
imports that: containerd looks for a layer's content only when it has not unpacked the chain of layers up to it.
"""

from __future__ import annotations

import hashlib
import subprocess
import tarfile
import tempfile
import time
from pathlib import Path

from testbed import tools
from testbed.buildah import COMMAND, buildah, layers_of, storage_lock
from testbed.node import SOCKET, ctr, node_is_running
from testbed.processes import TestbedError

IMPORT = ("ctr", "--address", str(SOCKET), "--namespace", "k8s.io", "images", "import", "-")


def load(reference: str) -> None:
    """Make an image usable by pods (imagePullPolicy Never or IfNotPresent); outdated ones of its name are removed."""
    if not node_is_running():
        raise TestbedError("No node runs on this machine: start one with `make cluster-up`, then load images.")
    with storage_lock():
        load_alone(reference)


def load_alone(reference: str) -> None:
    """Load an image while nobody builds or loads another."""
    if reference in ctr("images", "ls", "--quiet").split():
        return
    start = time.monotonic()
    layers = layers_of(reference)
    unpacked = unpacked_layers(layers)
    if len(unpacked) >= len(layers) - 1:
        import_missing(reference, unpacked)
        forget_outdated(reference)
    else:
        forget_outdated(reference)  # first: both at once may not fit on the disk
        import_all(reference)
    forget_content(layers)
    new = len(layers) - len(unpacked)
    print(f"loaded {reference} in {time.monotonic() - start:.0f} s ({new} new layers)", flush=True)


def unpacked_layers(layers: list[str]) -> list[str]:
    """The first layers, as far as containerd has unpacked them one upon the other."""
    snapshots = {line.split()[0] for line in ctr("snapshots", "ls").splitlines()[1:] if line.strip()}
    unpacked: list[str] = []
    chain = ""
    for layer in layers:
        chain = f"sha256:{hashlib.sha256(f'{chain} {layer}'.encode()).hexdigest()}" if chain else layer
        if chain not in snapshots:
            break
        unpacked.append(layer)
    return unpacked


def import_all(reference: str) -> None:
    """Pipe the whole image from buildah's storage into containerd."""
    push = [*COMMAND, "push", "--quiet", "--disable-compression", reference, f"docker-archive:/dev/stdout:{reference}"]
    with (
        tempfile.TemporaryFile() as complaints,
        subprocess.Popen(push, stdout=subprocess.PIPE, stderr=complaints) as source,
    ):
        result = subprocess.run(IMPORT, stdin=source.stdout, capture_output=True, text=True)
        if source.wait() or result.returncode:
            complaints.seek(0)
            raise TestbedError(f"{reference} was not loaded: {complaints.read().decode()} {result.stderr}")


def import_missing(reference: str, unpacked: list[str]) -> None:
    """Give containerd the image's description and the layers it has not unpacked."""
    with tempfile.TemporaryDirectory(dir=tools.CACHE, prefix=".layout-") as folder:
        blobs = Path(folder) / "blobs" / "sha256"
        blobs.mkdir(parents=True)
        place_holders = [blobs / layer.removeprefix("sha256:") for layer in unpacked]
        for file in place_holders:
            file.touch()
        buildah("push", "--quiet", "--disable-compression", reference, f"oci:{folder}:{reference}")
        with subprocess.Popen(
            IMPORT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        ) as target:
            assert target.stdin is not None
            assert target.stdout is not None
            with tarfile.open(fileobj=target.stdin, mode="w|") as stream:
                for file in sorted(Path(folder).rglob("*")):
                    if file.is_file() and file not in place_holders:
                        stream.add(file, arcname=str(file.relative_to(folder)))
            target.stdin.close()
            answer = target.stdout.read().decode()
        if target.returncode:
            raise TestbedError(f"{reference} was not loaded: {answer}")


def forget_outdated(reference: str) -> None:
    """Remove other versions of an image, under all their names: the kubelet's side gives each a second one, its digest."""
    repository = reference.rsplit(":", 1)[0]
    digests = {line.split()[0]: line.split()[2] for line in ctr("images", "ls").splitlines()[1:]}
    versions = {digest for name, digest in digests.items() if name.startswith(f"{repository}:")}
    outdated = versions - {digests.get(reference)}
    if names := [name for name, digest in digests.items() if digest in outdated]:
        ctr("images", "rm", "--sync", *names)


def forget_content(layers: list[str]) -> None:
    """Delete the packed copy of unpacked layers: half of the node's disk, and nothing reads it again."""
    for digest in set(ctr("content", "ls", "--quiet").split()) & set(layers):
        ctr("content", "rm", digest)
