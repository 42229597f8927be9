"""Trackers: TensorBoard's files for every job, W&B, MLflow and Comet by name; none of them can stop a training, or see a step twice."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
import time
import urllib.request
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from finetune_operator.api.exit_codes import ExitCode
from finetune_operator.api.run_events import EvaluationEvent, StepEvent
from finetune_trainer.testing import tiny_plan
from finetune_trainer.testing_ranks import CaseResult, RankServer
from finetune_trainer.trackers.feed import Feed
from finetune_trainer.trackers.tracker import Record, Told, record_of

STEPS = 7
PLAN = tiny_plan(micro_batch_size=2, total_steps=STEPS)
EVALUATED: dict[str, Any] = {
    "dataset": {"split": {"evaluation": 0.2}},
    "evaluation": {"every": 2},
    "checkpoint": {"every": "3steps"},
}


def folder(output: Path, tracker: str) -> Path:
    (found,) = output.glob(f"tracking/*/{tracker}")
    return found


def scalars(path: Path) -> dict[str, list[tuple[int, float]]]:
    """Read event files as TensorBoard does."""
    reader = EventAccumulator(str(path))
    reader.Reload()
    tags = reader.Tags()["scalars"]
    return {tag: [(each.step, each.value) for each in reader.Scalars(tag)] for tag in tags}


def as_told(losses: dict[int, float]) -> list[tuple[int, float]]:
    return [(step, pytest.approx(loss, rel=1e-6)) for step, loss in sorted(losses.items())]


def evaluations(*results: CaseResult) -> dict[int, float]:
    return {e.step: e.loss for result in results for e in result.events if isinstance(e, EvaluationEvent)}


@pytest.fixture(scope="module")
def mlflow_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """MLflow's own server, one worker on a free port."""
    home = tmp_path_factory.mktemp("mlflow")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    options = ["--backend-store-uri", f"sqlite:///{home}/mlflow.db", "--default-artifact-root", str(home / "artifacts")]
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    with (home / "log").open("wb") as log:
        server = subprocess.Popen([*command, *options], stdout=log, stderr=log, cwd=home, start_new_session=True)
    try:
        deadline = time.monotonic() + 90
        while True:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1):
                    break
            except OSError:
                if time.monotonic() > deadline or server.poll() is not None:
                    raise AssertionError((home / "log").read_text()) from None
                time.sleep(0.2)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait(20)


def test_a_stopped_and_resumed_training_shows_every_step_once_in_every_tracker(
    mlflow_server: str, ranks: RankServer, make_attempt: Any, tmp_path: Path
) -> None:
    tracking = {
        "wandb": {"project": "tiny"},
        "mlflow": {"uri": mlflow_server, "experiment": "trials"},
        "comet": {"project": "tiny"},
    }
    spec = {**EVALUATED, "tracking": tracking}
    output = {"FINETUNE_TEST_OUTPUT": str(tmp_path / "out")}
    killed = ranks.run(
        make_attempt(PLAN, **spec),
        tmp_path / "killed",
        probes=("told:5:3:tensorboard+mlflow", "TERM:0:5"),
        environment=output,
    )
    resumed = ranks.run(make_attempt(PLAN, attempt=2, **spec), tmp_path / "resumed")
    assert (killed.statuses, resumed.statuses) == ((ExitCode.TERMINATED,), (0,)), killed.log() + resumed.log()
    losses, evaluated = killed.losses | resumed.losses, evaluations(killed, resumed)
    assert "does not work" not in killed.log() + resumed.log()

    shown = scalars(folder(tmp_path / "out", "tensorboard"))
    assert shown["train/loss"] == as_told(losses)
    assert shown["eval/loss"] == as_told(evaluated)
    assert {"train/learning_rate", "train/gradient_norm", "train/token_accuracy"} <= shown.keys()

    read = ranks.call("finetune_trainer.testing_trackers:mlflow_runs", uri=mlflow_server, experiment="trials")
    (run,) = read
    assert run["status"] == "FINISHED"
    assert run["parameters"]["method"] == "lora"
    assert [tuple(each) for each in run["metrics"]["train/loss"]] == as_told(losses)
    assert [tuple(each) for each in run["metrics"]["eval/loss"]] == as_told(evaluated)

    history = ranks.call(
        "finetune_trainer.testing_trackers:wandb_history", folder=str(folder(tmp_path / "out", "wandb"))
    )
    assert [(row["_step"], row["train/loss"]) for row in history if "train/loss" in row] == as_told(losses)
    assert [(row["_step"], row["eval/loss"]) for row in history if "eval/loss" in row] == as_told(evaluated)

    found = []
    for archive in sorted(folder(tmp_path / "out", "comet").glob("attempt-*/*.zip")):
        with zipfile.ZipFile(archive) as file:
            messages = [json.loads(line) for line in file.read("messages.json").splitlines()]
        told = [m["payload"]["metric"] for m in messages if m["type"] == "metric_msg"]
        found += [(each["step"], each["metricValue"]) for each in told if each["metricName"] == "train/loss"]
    assert found == as_told(losses)


def test_after_a_kill_tensorboard_shows_every_step_once(ranks: RankServer, make_attempt: Any, tmp_path: Path) -> None:
    output = {"FINETUNE_TEST_OUTPUT": str(tmp_path / "out")}
    probes = ("told:5:3:tensorboard", "KILL:0:5")
    killed = ranks.run(make_attempt(PLAN, **EVALUATED), tmp_path / "killed", probes=probes, environment=output)
    resumed = ranks.run(make_attempt(PLAN, attempt=2, **EVALUATED), tmp_path / "resumed")

    assert (killed.statuses, resumed.statuses) == ((-9,), (0,)), killed.log() + resumed.log()
    shown = scalars(folder(tmp_path / "out", "tensorboard"))
    assert shown["train/loss"] == as_told(killed.losses | resumed.losses)
    assert shown["eval/loss"] == as_told(evaluations(killed, resumed))


class Refusing(BaseHTTPRequestHandler):
    """A tracker's server that knows nobody, and remembers who asked."""

    asked: ClassVar[list[str | None]] = []

    def do_POST(self) -> None:
        type(self).asked.append(self.headers["Authorization"])
        self.rfile.read(int(self.headers["Content-Length"] or 0))
        self.send_response(401)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_GET = do_POST

    def log_message(self, format: str, *values: object) -> None:
        """Say nothing."""


def test_trackers_that_refuse_or_are_not_there_are_told_once_and_the_training_goes_on(
    ranks: RankServer, make_attempt: Any, tmp_path: Path
) -> None:
    tracking = {
        "wandb": {"project": "tiny", "secret": "wandb"},
        "mlflow": {"uri": "http://127.0.0.1:9", "experiment": "trials"},
    }
    with HTTPServer(("127.0.0.1", 0), Refusing) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        login = {"WANDB_API_KEY": "k" * 40, "WANDB_BASE_URL": f"http://127.0.0.1:{server.server_port}"}
        brief = {**login, "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}
        result = ranks.run(make_attempt(PLAN, tracking=tracking), tmp_path / "run", environment=brief)
        server.shutdown()
        thread.join()
    plain = ranks.run(make_attempt(PLAN, output="plain"), tmp_path / "plain")

    assert result.statuses == (0,), result.log()
    assert result.losses == plain.losses
    assert Refusing.asked
    for name in ("wandb", "mlflow"):
        assert result.log().count(f"tracker {name} does not work, the training goes on without it: ") == 1
    assert "kkkk" not in result.log()
    assert scalars(folder(tmp_path / "out", "tensorboard"))["train/loss"] == as_told(result.losses)


class Deaf:
    """A tracker that fails when told."""

    name, folder = "deaf", None

    def __init__(self) -> None:
        self.asked = 0

    def open(self, told: Told) -> Told:
        return {"train": 2}

    def tell(self, records: tuple[Record, ...]) -> None:
        self.asked += 1
        assert [record.step for record in records] == [3]
        raise OSError("gone\nand a page of html")

    def flush(self) -> bool:
        return True

    def close(self, ended: str) -> None:
        """Never reached."""
        raise AssertionError


def test_steps_that_a_tracker_knows_are_not_told_again_and_one_that_fails_is_left_alone() -> None:
    problems: list[tuple[str, str]] = []
    tracker = Deaf()
    feed = Feed(tracker, dict, upload=lambda tracker, told: None, on_problem=lambda *said: problems.append(said))
    for step in (1, 2, 3):
        feed.tell(Record("train", step, {"loss": 1.0}))
    feed.flush()
    feed.end("finished")
    feed.wait(10)
    feed.tell(Record("train", 4, {"loss": 1.0}))

    assert tracker.asked == 1
    assert problems == [("deaf", "OSError: gone")]


def test_numbers_that_are_not_finite_are_left_out_and_those_of_an_evaluation_have_its_name() -> None:
    step = StepEvent(attempt=1, step=4, total_steps=9, loss=float("nan"), learning_rate=1e-3, measures={"kl": 0.5})
    told = record_of(step)
    evaluated = record_of(EvaluationEvent(attempt=1, step=4, loss=2.0, seconds=9.0))

    assert told is not None
    assert told.named == {"train/learning_rate": 1e-3, "train/kl": 0.5, "train/tokens": 0, "train/step_seconds": 0}
    assert evaluated is not None
    assert evaluated.named == {"eval/loss": 2.0}
