"""Trainings whose S3 server fails for a while: they go on, and lose nothing. Real ranks and a real server, no cluster."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from testbed.fault_proxy import FaultProxy
from testbed.s3 import REGION, S3Server

from finetune_operator.api.compatibility import Strategy
from finetune_operator.api.exit_codes import ExitCode
from finetune_operator.api.plan import AttemptFile
from finetune_operator.api.run_events import CheckpointEvent
from finetune_trainer.testing import arithmetic_rows, tiny_attempt, tiny_plan, write_rows
from finetune_trainer.testing_ranks import CaseResult, RankServer

STEPS = 12


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = S3Server(tmp_path_factory.mktemp("store"), address="127.0.0.1", port=port)
    try:
        server.start()
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="module")
def ranks() -> Iterator[RankServer]:
    with RankServer() as ranks:
        yield ranks


@pytest.fixture(scope="module")
def attempt(ranks: RankServer, tmp_path_factory: pytest.TempPathFactory) -> AttemptFile:
    folder = tmp_path_factory.mktemp("inputs")
    model, data = folder / "model", write_rows(folder / "rows.jsonl", arithmetic_rows(64))
    model.mkdir()
    ranks.call("finetune_trainer.testing:write_tiny_model", folder=str(model), rows=arithmetic_rows(64))
    plan = tiny_plan(strategy=Strategy.DDP, processes=2, micro_batch_size=2, total_steps=STEPS)
    return tiny_attempt(
        model, data, folder / "out", plan=plan, metrics_port=0, checkpoint={"every": "3steps", "keep": 3}
    )


def train(
    ranks: RankServer,
    attempt: AttemptFile,
    server: S3Server,
    proxy: FaultProxy,
    bucket: str,
    folder: Path,
    **limits: float | None,
) -> CaseResult:
    variables = {
        "AWS_ACCESS_KEY_ID": server.keys.access_key,
        "AWS_SECRET_ACCESS_KEY": server.keys.secret_key,
        "AWS_REGION": REGION,
        "AWS_ENDPOINT_URL": proxy.endpoint,
    }
    there = attempt.model_copy(update={"checkpoint_uri": f"s3://{bucket}/checkpoints"})
    return ranks.run(there, folder, environment=variables, **{"upload_seconds": 20.0, **limits})


def manifests(server: S3Server, bucket: str) -> dict[str, dict[str, Any]]:
    root = server.folder / "data" / bucket / "checkpoints"
    return {path.parts[-3]: json.loads(path.read_text()) for path in sorted(root.glob("step-*/*/manifest.json"))}


@pytest.mark.parametrize("fault", ["503", "reset", "read-only"])
def test_a_store_that_fails_for_a_while_delays_checkpoints_and_loses_nothing(
    fault: str, ranks: RankServer, attempt: AttemptFile, server: S3Server, tmp_path: Path
) -> None:
    bucket = f"fails-{fault}"
    server.create_bucket(bucket)
    left = iter(range(6))

    def choose(method: str, path: str) -> str | None:
        return fault if method in ("PUT", "POST", "DELETE") and next(left, None) is not None else None

    target = server.endpoint.removeprefix("http://").partition(":")
    with FaultProxy(target[0], int(target[2]), choose) as proxy:
        result = train(ranks, attempt, server, proxy, bucket, tmp_path)

    assert result.statuses == (0, 0), result.log()
    assert proxy.met == 6
    assert sorted(result.losses) == list(range(1, STEPS + 1))
    assert "is delayed: s3://" in result.log() + result.log(1)
    committed = [event.step for event in result.events if isinstance(event, CheckpointEvent) and event.verified]
    assert committed == sorted(committed)
    assert committed[-1] == STEPS
    assert list(manifests(server, bucket)) == [f"step-{step:08d}" for step in committed[-3:]]


def test_a_bucket_that_is_read_only_for_two_minutes_delays_the_last_checkpoint_until_it_takes_it(
    ranks: RankServer, attempt: AttemptFile, server: S3Server, tmp_path: Path
) -> None:
    """With the patience that trainings have, not that of tests: the steps are over long before the bucket takes anything again."""
    server.create_bucket("two-minutes")
    begun: list[float] = []

    def choose(method: str, path: str) -> str | None:
        if method not in ("PUT", "POST", "DELETE"):
            return None
        begun.append(time.monotonic())
        return "read-only" if begun[-1] - begun[0] < 120 else None

    target = server.endpoint.removeprefix("http://").partition(":")
    with FaultProxy(target[0], int(target[2]), choose) as proxy:
        patience = {"upload_seconds": None, "case_seconds": 400.0}
        result = train(ranks, attempt, server, proxy, "two-minutes", tmp_path, **patience)

    assert result.statuses == (0, 0), result.log()
    assert sorted(result.losses) == list(range(1, STEPS + 1))
    assert "the store refuses access (HTTP 403, AccessDenied)" in result.log()
    assert list(manifests(server, "two-minutes")) == [f"step-{STEPS:08d}"]


def test_only_a_last_checkpoint_that_is_never_taken_fails_the_run_and_earlier_ones_stay(
    ranks: RankServer, attempt: AttemptFile, server: S3Server, tmp_path: Path
) -> None:
    server.create_bucket("read-only-in-the-end")
    final = f"step-{STEPS:08d}"

    def choose(method: str, path: str) -> str | None:
        return "read-only" if method in ("PUT", "POST") and final in path else None

    target = server.endpoint.removeprefix("http://").partition(":")
    with FaultProxy(target[0], int(target[2]), choose) as proxy:
        there = attempt.model_copy(update={"checkpoint_uri": "s3://read-only-in-the-end/checkpoints"})
        variables = {
            "AWS_ACCESS_KEY_ID": server.keys.access_key,
            "AWS_SECRET_ACCESS_KEY": server.keys.secret_key,
            "AWS_REGION": REGION,
            "AWS_ENDPOINT_URL": proxy.endpoint,
        }
        result = ranks.run(there, tmp_path, environment=variables, upload_seconds=1.0)

    assert result.statuses == (ExitCode.STORAGE_DOWN, ExitCode.STORAGE_DOWN), result.log()
    assert all("the store refuses access (HTTP 403, AccessDenied)" in error.message for error in result.run.errors())
    found = manifests(server, "read-only-in-the-end")
    assert found
    assert final not in found
