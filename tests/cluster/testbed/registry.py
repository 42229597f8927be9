"""A real OCI registry (CNCF distribution) over a folder: with TLS by an authority of its own and a password, or open on localhost."""

from __future__ import annotations

import base64
import json
import re
import socket
from dataclasses import dataclass, field
from pathlib import Path

from testbed import tools
from testbed.certificates import write_certificates
from testbed.processes import Processes, free_port

PROGRAM = "registry"
USER = "docker"
"""The user whom the registry makes, with a password of its own choice, where it finds no file of users."""


@dataclass
class Registry:
    """One registry; `protected` is one with TLS and a password."""

    directory: Path
    protected: bool
    port: int = field(default_factory=free_port)

    @property
    def host(self) -> str:
        """Host and port, as they stand in a reference."""
        return f"127.0.0.1:{self.port}"

    @property
    def blobs(self) -> Path:
        """The folder of everything that was pushed."""
        return self.directory / "data"

    def start(self) -> None:
        """Start, and write `login/` as a pod has it: config.json, and ca.crt with TLS."""
        environment = {
            "REGISTRY_STORAGE_FILESYSTEM_ROOTDIRECTORY": str(self.blobs),
            "REGISTRY_HTTP_ADDR": self.host,
            "OTEL_TRACES_EXPORTER": "none",
        }
        if self.protected:
            keys = self.directory / "keys"
            write_certificates(keys, ["127.0.0.1"])
            environment |= {
                "REGISTRY_HTTP_TLS_CERTIFICATE": str(keys / "apiserver.crt"),
                "REGISTRY_HTTP_TLS_KEY": str(keys / "apiserver.key"),
                "REGISTRY_AUTH": "htpasswd",
                "REGISTRY_AUTH_HTPASSWD_REALM": "models",
                "REGISTRY_AUTH_HTPASSWD_PATH": str(self.directory / "users"),
            }
        self.directory.mkdir(parents=True, exist_ok=True)
        config = self.directory / "config.yml"
        config.write_text("version: 0.1\nstorage: {filesystem: {rootdirectory: /nowhere}}\n")
        processes = Processes(self.directory)
        processes.start(PROGRAM, tools.path("registry"), "serve", config, environment=environment)
        processes.wait_until(PROGRAM, "it listens", self._listens, patience=120)
        if self.protected:
            self._write_login(processes)

    def stop(self) -> None:
        """End it; what was pushed stays."""
        Processes(self.directory).stop(PROGRAM)

    def _listens(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def _write_login(self, processes: Processes) -> None:
        said = re.search(r'password="?([^"\s]+)', processes.tail(PROGRAM, 200))
        if said is None:
            raise AssertionError("the registry has not told its password")
        login = self.directory / "login"
        login.mkdir(exist_ok=True)
        auth = base64.b64encode(f"{USER}:{said.group(1)}".encode()).decode()
        (login / "config.json").write_text(json.dumps({"auths": {self.host: {"auth": auth}}}))
        (login / "ca.crt").write_text((self.directory / "keys" / "ca.crt").read_text())
