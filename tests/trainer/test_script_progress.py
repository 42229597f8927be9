"""What a user's own script reports reaches the operator through its pod, and one that reports no more is stopped and goes on from its checkpoint."""

from __future__ import annotations

import json
import textwrap
import urllib.error
import urllib.request
from collections.abc import Sequence
from email.message import Message
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_operator.api.exit_codes import ExitCode
from finetune_operator.api.plan import AttemptFile
from finetune_operator.api.progress import REPORT_LIMIT_BYTES, Metric, TrainerStatus
from finetune_operator.api.reasons import Reason
from finetune_trainer.script_progress import ProgressRelay, ProgressWatch
from finetune_trainer.testing_scripts import ScriptPod, saved_steps, scripted
from finetune_trainer.watchdog import LEAST_SECONDS, LONGEST_SECONDS

REPORTS = """
import json, os, pathlib, time, urllib.request
folder = pathlib.Path(os.environ["FINETUNE_CHECKPOINT_FOLDER"])
begun_again = (folder / "checkpoint-4").exists()
for step in range(1, 6):
    status = {"progressPercentage": step * 10, "metrics": [{"name": "current_step", "value": str(step)}]}
    if os.environ.get("REPORTS"):
        body = json.dumps({"trainerStatus": status}).encode()
        urllib.request.urlopen(urllib.request.Request(os.environ["KUBEFLOW_TRAINER_SERVER_URL"], data=body)).close()
    if step == 4 and not begun_again:
        (folder / "checkpoint-4").mkdir()
        (folder / "checkpoint-4" / "state").write_text("saved")
        time.sleep(float(os.environ["SLEEPS"]))
(pathlib.Path(os.environ["FINETUNE_RESULT_FOLDER"]) / "model.bin").write_text("done")
"""


@pytest.fixture
def script(tmp_path: Path) -> Path:
    path = tmp_path / "report.py"
    path.write_text(textwrap.dedent(REPORTS))
    return path


def status(step: int | None = None, percentage: int | None = None, total: int | None = None) -> TrainerStatus:
    values = {"current_step": step, "total_steps": total}
    metrics = tuple(Metric(name=name, value=str(value)) for name, value in values.items() if value is not None)
    return TrainerStatus(progress_percentage=percentage, metrics=metrics)


def test_a_script_that_hangs_is_stopped_and_goes_on_from_its_checkpoint(
    attempt: AttemptFile, script: Path, tmp_path: Path
) -> None:
    def limit(steps: Sequence[float]) -> float:
        return 1.0 if len(steps) >= 3 else LONGEST_SECONDS

    first, second = scripted(attempt, script), scripted(attempt, script, number=2)
    hung = ScriptPod(first, tmp_path / "first").run(limits={"hang_limit": limit}, REPORTS="1", SLEEPS="3600")

    assert (hung.exit_code, hung.reason, hung.step) == (ExitCode.HANG, Reason.HANG, 4)
    assert "after step 4" in hung.message
    assert "FINETUNE_HANG_SECONDS" in hung.message
    assert saved_steps(first) == [4]
    ended = ScriptPod(second, tmp_path / "second").run(limits={"hang_limit": limit}, REPORTS="1", SLEEPS="3600")
    assert ended.exit_code is ExitCode.OK


def test_a_script_that_has_never_reported_is_not_judged(attempt: AttemptFile, script: Path, tmp_path: Path) -> None:
    ended = ScriptPod(scripted(attempt, script), tmp_path / "work").run(
        limits={"hang_limit": lambda steps: 0.0}, SLEEPS="1"
    )

    assert ended.exit_code is ExitCode.OK


@given(st.floats(0.1, 300), st.integers(4, 60))
def test_ten_usual_steps_without_progress_are_a_hang_and_never_less_than_two_minutes(
    seconds: float, steps: int
) -> None:
    watch, now = ProgressWatch(), 0.0
    for step in range(steps):
        assert watch.silent_seconds(now + 0.9 * max(LEAST_SECONDS, seconds)) is None
        watch.report(status(step), now)
        now += seconds
    last = now - seconds
    limit = max(LEAST_SECONDS, min(10 * seconds, LONGEST_SECONDS))

    watch.report(status(steps - 1), now)  # the same again is no progress
    assert watch.silent_seconds(last + 0.99 * limit) is None
    assert watch.silent_seconds(last + 1.01 * limit) == pytest.approx(1.01 * limit)
    watch.wrote(last + limit)
    assert watch.silent_seconds(last + 1.01 * limit) is None


@pytest.mark.parametrize("last", [status(9, 100), status(10, 99, total=10)])
def test_nothing_is_expected_of_a_script_after_its_last_step(last: TrainerStatus) -> None:
    watch = ProgressWatch(lambda steps: 1.0)
    watch.report(status(percentage=50), 0.0)
    assert watch.silent_seconds(2.0) == 2.0

    watch.report(last, 3.0)
    assert watch.silent_seconds(1e6) is None


def test_a_report_is_heard_in_the_pod_and_passed_on() -> None:
    heard: list[int | None] = []
    sent: list[bytes] = []
    body = json.dumps({"trainerStatus": {"metrics": [{"name": "step", "value": "3"}]}}).encode()
    relay = ProgressRelay(lambda told: heard.append(told.step), sent.append)
    try:
        assert [post(relay, body), post(relay, b"{"), post(relay, b" " * (REPORT_LIMIT_BYTES + 1))] == [200, 422, 413]
    finally:
        relay.close()
    assert (heard, sent) == ([3], [body])


@pytest.mark.parametrize(
    ("error", "code"),
    [(urllib.error.HTTPError("", 429, "too many", Message(), None), 429), (ConnectionRefusedError(), 503)],
)
def test_what_the_operator_refuses_is_heard_all_the_same(error: OSError, code: int) -> None:
    heard: list[TrainerStatus] = []

    def refuse(body: bytes) -> None:
        raise error

    relay = ProgressRelay(heard.append, refuse)
    try:
        assert post(relay, b'{"trainerStatus": {"progressPercentage": 7}}') == code
    finally:
        relay.close()
    assert heard == [status(percentage=7)]


def post(relay: ProgressRelay, body: bytes) -> int:
    try:
        with urllib.request.urlopen(urllib.request.Request(relay.url, data=body)) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code
