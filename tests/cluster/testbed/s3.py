"""An S3 server that pods reach: versitygw over a folder, on the bridge's address.

It checks signatures and policies, serves conditional writes right up to 1 MiB (above, a refused one may end as a closed connection),
keeps every acknowledged object through a `kill -9`, and its objects are plain files. Ready in 0.5 s, 47 MB.
"""

from __future__ import annotations

import json
import os
import secrets
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from testbed import tools
from testbed.control_plane import NODE_ADDRESS
from testbed.processes import Processes, TestbedError, run

PROGRAM = "9-versitygw"
PORT = 9100
REGION = "us-east-1"


@dataclass(frozen=True)
class Keys:
    """One account's key pair."""

    access_key: str
    secret_key: str

    @classmethod
    def random(cls, account: str) -> Keys:
        """A new pair; every run has its own, so none is worth keeping secret afterwards."""
        return cls(f"{account}-{secrets.token_hex(4)}", secrets.token_urlsafe(24))


class S3Server:
    """The server has two accounts: `root`, with which the test looks at everything, and `keys`, which jobs use.

    `refuse` takes a bucket away from the jobs' account (403 AccessDenied) and `accept` gives it back; the test still sees all.
    """

    def __init__(self, directory: Path, address: str = NODE_ADDRESS, port: int = PORT) -> None:
        self.processes = Processes(directory)
        self.folder = directory / "s3"
        self.endpoint = f"http://{address}:{port}"
        self._listen = f"{address}:{port}"
        self._key_file = directory / "s3-keys.json"
        self.root = Keys.random("root")
        self.keys = Keys.random("jobs")

    def start(self) -> None:
        """Start over what the folder holds; a restart keeps objects and keys."""
        self._exchange_keys()
        for name in ("data", "accounts"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        environment = {"ROOT_ACCESS_KEY": self.root.access_key, "ROOT_SECRET_KEY": self.root.secret_key}
        self.processes.start(
            PROGRAM,
            tools.path("versitygw"),
            "--quiet",
            "--port",
            self._listen,
            "--iam-dir",
            self.folder / "accounts",
            "posix",
            self.folder / "data",
            environment=environment,
        )
        self.processes.wait_until(PROGRAM, "it answers", self._answers, patience=120)
        if self.keys.access_key not in self._accounts():
            self._administer(
                "create-user", "--access", self.keys.access_key, "--secret", self.keys.secret_key, "--role", "user"
            )

    def stop(self) -> None:
        """End the server in order; the objects stay."""
        self.processes.stop(PROGRAM)

    def kill(self) -> None:
        """End the server as a crash would; `start` brings it back with everything it had acknowledged."""
        self.processes.kill(PROGRAM)

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Hold the server's process: connections are accepted by the kernel, and nobody answers."""
        process = self.processes.pid(PROGRAM)
        if process is None:
            raise TestbedError(f"{PROGRAM} does not run")
        os.kill(process, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(process, signal.SIGCONT)

    def client(self, keys: Keys | None = None) -> Any:
        """A boto3 client, with every right unless other keys are given."""
        keys = keys or self.root
        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            region_name=REGION,
            aws_access_key_id=keys.access_key,
            aws_secret_access_key=keys.secret_key,
            config=Config(retries={"max_attempts": 1}, connect_timeout=2, proxies={}, signature_version="s3v4"),
        )

    def create_bucket(self, name: str) -> Path:
        """Make a bucket that jobs may use, and return the folder in which its objects lie."""
        self.client().create_bucket(Bucket=name)
        self.accept(name)
        return self.folder / "data" / name

    def accept(self, bucket: str) -> None:
        """Let the jobs' account do anything in a bucket."""
        statement = {
            "Effect": "Allow",
            "Principal": {"AWS": [self.keys.access_key]},
            "Action": "s3:*",
            "Resource": [f"arn:aws:s3:::{bucket}", f"arn:aws:s3:::{bucket}/*"],
        }
        policy = {"Version": "2012-10-17", "Statement": [statement]}
        self.client().put_bucket_policy(Bucket=bucket, Policy=json.dumps(policy))

    def refuse(self, bucket: str) -> None:
        """Make every request of the jobs' account for a bucket a 403."""
        self.client().delete_bucket_policy(Bucket=bucket)

    def secret(self, name: str, namespace: str = "default", keys: Keys | None = None) -> dict[str, Any]:
        """The Secret by which a job's pods find the server, in the names that every S3 client reads."""
        keys = keys or self.keys
        return {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": name, "namespace": namespace},
            "stringData": {
                "AWS_ACCESS_KEY_ID": keys.access_key,
                "AWS_SECRET_ACCESS_KEY": keys.secret_key,
                "AWS_REGION": REGION,
                "AWS_ENDPOINT_URL": self.endpoint,
                "AWS_ALLOW_HTTP": "true",
            },
        }

    def _exchange_keys(self) -> None:
        """Keep the keys beside the data: another process of the same user may look at them and start the server again."""
        if self._key_file.exists():
            known = json.loads(self._key_file.read_text())
            self.root, self.keys = Keys(**known["root"]), Keys(**known["keys"])
        else:
            self._key_file.parent.mkdir(parents=True, exist_ok=True)
            self._key_file.touch(mode=0o600)
            self._key_file.write_text(json.dumps({"root": asdict(self.root), "keys": asdict(self.keys)}))

    def _answers(self) -> bool:
        try:
            self.client().list_buckets()
        except (BotoCoreError, ClientError):
            return False
        return True

    def _accounts(self) -> str:
        return "".join(path.read_text() for path in (self.folder / "accounts").rglob("*") if path.is_file())

    def _administer(self, *arguments: str) -> None:
        environment = {
            "ADMIN_ACCESS_KEY": self.root.access_key,
            "ADMIN_SECRET_KEY": self.root.secret_key,
            "ADMIN_ENDPOINT_URL": self.endpoint,
            "NO_PROXY": "*",
        }
        run(tools.path("versitygw"), "admin", *arguments, environment=environment)
