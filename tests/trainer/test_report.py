"""Progress reports: what is sent, how often, and that their failure is nobody's."""

from __future__ import annotations

import json
import ssl
import subprocess
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import ClassVar

import pytest

from finetune_operator.api.inspection import ProgressEndpoint
from finetune_operator.api.plan import AttemptFile
from finetune_operator.api.progress import ProgressReport, TrainerStatus
from finetune_trainer.report import Reporter, https_sender, trainer_status


class Server:
    """Takes bodies, or refuses them."""

    def __init__(self, *, refuses: bool = False) -> None:
        self.bodies: list[dict[str, object]] = []
        self.refuses = refuses
        self.asked = threading.Event()

    def __call__(self, body: bytes) -> None:
        self.asked.set()
        if self.refuses:
            raise ConnectionRefusedError("nobody is there")
        self.bodies.append(json.loads(body)["trainerStatus"])


def status(step: int) -> TrainerStatus:
    return trainer_status(
        now=datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
        attempt=2,
        step=step,
        total_steps=10,
        loss=1.5,
        tokens_per_second=123.456,
        remaining_seconds=61.4,
        peak_memory_bytes=None,
        checkpoint_step=4,
        checkpoints_rejected=1,
    )


def test_a_report_is_the_body_of_kep_2779_with_our_metrics() -> None:
    body = ProgressReport(trainer_status=status(5)).model_dump(mode="json", by_alias=True, exclude_none=True)

    assert body == {
        "trainerStatus": {
            "lastUpdatedTime": "2026-01-02T03:04:05Z",
            "progressPercentage": 50,
            "estimatedRemainingSeconds": 61,
            "metrics": [
                {"name": "attempt", "value": "2"},
                {"name": "step", "value": "5"},
                {"name": "total_steps", "value": "10"},
                {"name": "loss", "value": "1.5"},
                {"name": "tokens_per_second", "value": "123.5"},
                {"name": "checkpoint_step", "value": "4"},
                {"name": "checkpoints_rejected", "value": "1"},
            ],
        }
    }


def test_the_last_report_is_sent_again_until_the_operator_is_back() -> None:
    server = Server(refuses=True)
    reporter = Reporter(server, interval=0.01)
    back = threading.Timer(1.0, lambda: setattr(server, "refuses", False))
    back.start()
    reporter.update(status(10))
    reporter.close(seconds=10)
    back.join()
    assert [body["progressPercentage"] for body in server.bodies] == [100]


def test_only_the_newest_of_many_reports_is_sent_in_an_interval() -> None:
    server = Server()
    reporter = Reporter(server, interval=3600)
    reporter.update(status(1))
    assert server.asked.wait(30)
    for step in range(2, 9):
        reporter.update(status(step))
    reporter.close()

    assert [body["progressPercentage"] for body in server.bodies] == [10, 80]


def test_an_urgent_report_does_not_wait() -> None:
    server = Server()
    reporter = Reporter(server, interval=3600)
    reporter.update(status(1))
    assert server.asked.wait(30)
    server.asked.clear()
    reporter.update(status(2), urgent=True)

    assert server.asked.wait(30)
    reporter.close()


def test_an_operator_that_does_not_answer_is_counted_and_otherwise_ignored() -> None:
    failures: list[None] = []
    reporter = Reporter(Server(refuses=True), failed=lambda: failures.append(None), interval=3600)

    reporter.update(status(1))
    reporter.close(seconds=1)

    assert failures == [None]


class Operator(BaseHTTPRequestHandler):
    """Remembers what was posted."""

    seen: ClassVar[list[tuple[str, str | None, object]]] = []

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        type(self).seen.append((self.path, self.headers["Authorization"], body))
        self.send_response(204)
        self.end_headers()

    def log_message(self, format: str, *values: object) -> None:
        """Say nothing."""


@pytest.fixture
def operator_url(tmp_path: Path) -> Iterator[str]:
    options = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost"
    names = ["-addext", "subjectAltName=DNS:localhost", "-keyout", tmp_path / "tls.key", "-out", tmp_path / "tls.crt"]
    subprocess.run(["openssl", *options.split(), *names], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "tls.crt", tmp_path / "tls.key")
    with HTTPServer(("127.0.0.1", 0), Operator) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"https://localhost:{server.server_port}"
        server.shutdown()
        thread.join()


def test_reports_go_to_the_operator_by_tls_with_the_newest_token(operator_url: str, tmp_path: Path) -> None:
    authority = (tmp_path / "tls.crt").read_text()
    attempt = AttemptFile.model_construct(
        namespace="team",
        name="tune",
        progress=ProgressEndpoint(url=operator_url, certificate_authority=authority),
    )
    token = tmp_path / "token"
    send = https_sender(attempt, token)
    assert send is not None
    for value in ("first", "second"):
        token.write_text(f"{value}\n")
        send(b'{"trainerStatus": {}}')

    path = "/apis/finetune-operator.dev/v1alpha1/namespaces/team/finetunejobs/tune/progress"
    assert Operator.seen == [(path, f"Bearer {value}", {"trainerStatus": {}}) for value in ("first", "second")]


def test_an_operator_with_another_certificate_gets_no_token(operator_url: str, tmp_path: Path) -> None:
    options = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj /CN=x -keyout /dev/null"
    made = subprocess.run(["openssl", *options.split()], check=True, capture_output=True, text=True)
    other = made.stdout
    attempt = AttemptFile.model_construct(
        namespace="team", name="tune", progress=ProgressEndpoint(url=operator_url, certificate_authority=other)
    )
    (tmp_path / "token").write_text("secret")
    send = https_sender(attempt, tmp_path / "token")
    assert send is not None
    before = len(Operator.seen)

    with pytest.raises(OSError, match="CERTIFICATE_VERIFY_FAILED"):
        send(b"{}")
    assert len(Operator.seen) == before
