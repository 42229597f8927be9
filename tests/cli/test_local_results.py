"""`model.uri: ftj://NAME` on one machine: the newest result of that name among the runs of a folder."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from tests.cli.job_files import TINY, write_job

from finetune_operator.api.spec import FineTuneJobSpec
from finetune_operator.cli.local_results import remember_result, with_found_models
from finetune_operator.cli.main import main


def finished(folder: Path, run: str, model: str, at: int) -> None:
    """A run that has published `model` at a second."""
    (folder / run).mkdir(parents=True)
    remember_result(folder / run, f"file://{folder / model}")
    os.utime(folder / run / "result.json", (at, at))
    (folder / model).mkdir(exist_ok=True)
    (folder / model / "config.json").write_text(json.dumps({**TINY, "num_hidden_layers": at}))


def test_the_result_that_was_finished_last_is_planned_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    job = write_job(tmp_path, model="ftj://base", method="full", resources="{accelerator: cpu}")
    finished(tmp_path / "runs", "base-0123abcd", "older", 2)
    finished(tmp_path / "runs", "base-ffff0000", "newer", 3)
    finished(tmp_path / "runs", "base-of-others-00000000", "others", 4)

    assert main(["plan", "-f", job, "--folder", str(tmp_path / "runs"), "-o", "json"]) == 0
    # 512 x 64 words twice, the last norm, and per layer four projections, three of the feed-forward and two norms
    layer = 4 * 64 * 64 + 3 * 64 * 160 + 2 * 64
    assert json.loads(capsys.readouterr().out)["totalParameters"] == 2 * 512 * 64 + 64 + 3 * layer


def test_without_a_finished_run_of_that_name_the_remedy_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job = write_job(tmp_path, model="ftj://base")
    for command in ("plan", "run"):
        assert main([command, "-f", job, "--folder", str(tmp_path / "runs")]) == 2
        said = capsys.readouterr().err
        assert "model.uri: ftj://base: no run of job base has finished" in said
        assert "run it first" in said


def test_reward_models_are_found_by_the_name_of_their_run(tmp_path: Path) -> None:
    finished(tmp_path / "runs", "judge-0123abcd", "liked", 2)
    rewards = [{"model": {"uri": "ftj://judge"}}, {"verifier": "exact-number"}, {"model": {"uri": "hf://org/other"}}]
    spec = FineTuneJobSpec.model_validate(
        {
            "objective": "rloo",
            "model": {"uri": "hf://org/name"},
            "dataset": {"uri": "s3://data/rows.jsonl", "format": "prompt"},
            "training": {"globalBatchSize": 8, "rloo": {"rewards": rewards}},
            "output": {"uri": "s3://models/tuned"},
        }
    )

    online = with_found_models(spec, tmp_path / "runs").training.online

    assert online is not None
    assert [model.uri for model in online.reward_models] == [f"file://{tmp_path}/runs/liked", "hf://org/other"]
