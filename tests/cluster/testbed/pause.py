"""The sandbox image that holds a pod's network namespace: one static program of ten lines, since no image registry is needed here."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from pathlib import Path

from testbed.processes import run

REFERENCE = "localhost/pause:1"
SOURCE = """#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>
static void stop(int s) { exit(0); }
static void reap(int s) { while (waitpid(-1, NULL, WNOHANG) > 0); }
int main() { signal(SIGINT, stop); signal(SIGTERM, stop); signal(SIGCHLD, reap); for (;;) pause(); }
"""


def write_pause_archive(folder: Path) -> Path:
    """Write a Docker archive whose only file is /pause."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "pause.c").write_text(SOURCE)
    run("cc", "-static", "-Os", "-o", "pause", "pause.c", folder=folder)
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w") as files:
        files.add(folder / "pause", arcname="pause")
    digest = hashlib.sha256(layer.getvalue()).hexdigest()
    config = {
        "architecture": "amd64",
        "os": "linux",
        "config": {"Entrypoint": ["/pause"]},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}"]},
    }
    manifest = [{"Config": "config.json", "RepoTags": [REFERENCE], "Layers": ["layer.tar"]}]
    archive = folder / "pause.tar"
    with tarfile.open(archive, "w") as tar:
        for name, content in (
            ("manifest.json", json.dumps(manifest).encode()),
            ("config.json", json.dumps(config).encode()),
            ("layer.tar", layer.getvalue()),
        ):
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return archive
