import json
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest

from finetune_operator.api.constants import INSPECTION_REPORT_LIMIT_BYTES
from finetune_operator.api.inspection import (
    DatasetFacts,
    InspectionReport,
    InspectionRequest,
    ModelFacts,
    ProgressEndpoint,
    RowProblem,
    TokenHistogram,
)
from finetune_trainer.failures import TrainerFailure
from finetune_trainer.inspect.delivery import post_report, to_json


class Receiver:
    """Answers with the given codes, one after another, and remembers what came."""

    def __init__(self, codes: list[int]) -> None:
        self.seen: list[tuple[str, str, bytes]] = []
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                receiver.seen.append((self.path, self.headers["Authorization"], body))
                self.send_response(codes[min(len(receiver.seen), len(codes)) - 1])
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:
                pass

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        Thread(target=self.server.serve_forever, daemon=True).start()
        self.endpoint = ProgressEndpoint(
            url=f"http://127.0.0.1:{self.server.server_address[1]}/", certificate_authority=""
        )


def post(
    codes: list[int], request: InspectionRequest, tmp_path: Path
) -> tuple[list[tuple[str, str, bytes]], list[float], str]:
    (tmp_path / "token").write_text("the-token\n")
    receiver, waits, problem = Receiver(codes), list[float](), ""
    try:
        post_report(request, receiver.endpoint, b"{}", token_path=tmp_path / "token", wait=waits.append)
    except TrainerFailure as failure:
        problem = str(failure)
    receiver.server.shutdown()
    receiver.server.server_close()
    return receiver.seen, waits, problem


def test_the_report_goes_to_the_jobs_path_with_the_token(
    request_for: Callable[[], InspectionRequest], tmp_path: Path
) -> None:
    seen, _, _ = post([200], request_for(), tmp_path)
    path = "/apis/finetune-operator.dev/v1alpha1/namespaces/team/finetunejobs/bot/inspection"
    assert seen == [(path, "Bearer the-token", b"{}")]


def test_an_operator_that_restarts_is_waited_for(request_for: Callable[[], InspectionRequest], tmp_path: Path) -> None:
    seen, waits, problem = post([503, 401, 200], request_for(), tmp_path)
    assert (len(seen), waits, problem) == (3, [0.5, 1], "")


def test_a_report_that_is_never_taken_is_not_sent_again(
    request_for: Callable[[], InspectionRequest], tmp_path: Path
) -> None:
    seen, _, problem = post([404], request_for(), tmp_path)
    assert len(seen) == 1
    assert "HTTP 404" in problem
    assert "the-token" not in problem


def test_tries_end_after_a_minute_of_waiting(request_for: Callable[[], InspectionRequest], tmp_path: Path) -> None:
    seen, waits, problem = post([500], request_for(), tmp_path)
    assert (len(seen), sum(waits)) == (9, pytest.approx(60.5))
    assert "HTTP 500" in problem


def test_a_report_always_fits() -> None:
    report = InspectionReport(
        key="k",
        job="a/b",
        finished_at="2026-01-01T00:00:00Z",
        seconds=1,
        model=ModelFacts(
            uri="hf://a/b", revision="c", architecture="X", parameters=1, weight_bytes=1, dtypes={}, files=(),
            config={"small": 1, "large": list(range(100_000)), "larger": list(range(200_000))},
        ),
        dataset=DatasetFacts(
            uri="s3://b/x", format="messages", files=(), rows=1,
            problems=(RowProblem(file="x", line=1, reason="y"),),
            tokens=TokenHistogram(edges=(1, 2), counts=(1,), minimum=1, maximum=1, mean=1, median=1, percentile_99=1, total=1),
        ),
    )  # fmt: skip
    body = to_json(report)
    assert len(body) <= INSPECTION_REPORT_LIMIT_BYTES
    assert json.loads(body)["model"]["config"] == {"small": 1}
