"""Progress reports: what is sent, how often, and that their failure is nobody's."""

from __future__ import annotations

import json
import threading
from datetime import UTC, datetime

from finetune_operator.api.progress import ProgressReport, TrainerStatus
from finetune_trainer.report import Reporter, trainer_status


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


def test_only_the_newest_of_many_reports_is_sent_in_an_interval() -> None:
    server = Server()
    reporter = Reporter(server, interval=3600)
    reporter.update(status(1))
    assert server.asked.wait(5)
    for step in range(2, 9):
        reporter.update(status(step))
    reporter.close()

    assert [body["progressPercentage"] for body in server.bodies] == [10, 80]


def test_an_urgent_report_does_not_wait() -> None:
    server = Server()
    reporter = Reporter(server, interval=3600)
    reporter.update(status(1))
    assert server.asked.wait(5)
    server.asked.clear()
    reporter.update(status(2), urgent=True)

    assert server.asked.wait(5)
    reporter.close()


def test_an_operator_that_does_not_answer_is_counted_and_otherwise_ignored() -> None:
    failures: list[None] = []
    reporter = Reporter(Server(refuses=True), failed=lambda: failures.append(None), interval=3600)

    reporter.update(status(1))
    reporter.close()

    assert failures == [None]
