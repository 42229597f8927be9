"""What `finetune run` learns from runs on this machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from finetune_operator.api.history import EMPTY_HISTORY, Prediction
from finetune_operator.api.run_events import MemoryEvent, RunEvent, StepEvent
from finetune_operator.cli.main import main
from finetune_operator.cli.manifest_file import UnreadableManifest
from finetune_operator.cli.run_history import finished_run, history_in, remember
from finetune_operator.cli.run_report import RunRecord
from finetune_operator.planner.history import FinishedRun, corrections_of
from finetune_operator.planner.testing import SMALL, cpu_inventory, good, plan_of, spec_of

GIB = 2**30


def step(number: int, *, attempt: int = 1, seconds: float = 1.0) -> StepEvent:
    return StepEvent(
        attempt=attempt, step=number, total_steps=9, loss=1.0, learning_rate=1e-4, tokens=100, seconds=seconds
    )


def prediction() -> Prediction:
    plan = good(plan_of(spec_of(SMALL, method="lora", resources={"accelerator": "cpu"}), cpu_inventory()))
    assert plan.prediction is not None
    return plan.prediction


def run_of(predicted: Prediction, *events: RunEvent) -> FinishedRun:
    return finished_run("uid", "2026-11-21T17:00:00Z", predicted, list(events))


def test_the_last_attempt_alone_tells_and_its_first_step_does_not_count() -> None:
    made = RunRecord()
    first = (step(1, seconds=0.1), MemoryEvent(attempt=1, rank=0, bytes=9 * GIB))
    last = (step(2, attempt=2, seconds=50.0), step(3, attempt=2), step(4, attempt=2, seconds=3.0))
    peaks = [MemoryEvent(attempt=2, rank=rank, bytes=(2 + rank) * GIB) for rank in (0, 1)]
    events: list[RunEvent] = [*first, *last, *peaks]
    for event in events:
        made.add(event)
    run = run_of(prediction(), *made.last_attempt())
    assert (run.peak_bytes, run.tokens_per_second) == (3 * GIB, 50.0)


def test_a_finished_run_corrects_the_next_plan_and_counts_once(tmp_path: Path) -> None:
    path, predicted = tmp_path / "runs" / "history.json", prediction()
    assert history_in(path) == EMPTY_HISTORY
    for _ in range(2):
        peak = MemoryEvent(attempt=1, rank=0, bytes=round(1.2 * predicted.expected_bytes))
        remember(path, run_of(predicted, step(1), peak))
    history = history_in(path)
    assert history.runs == 1
    assert corrections_of(history).memory(predicted.kind).factor > 1.0
    assert [found.name for found in path.parent.iterdir()] == ["history.json"], "no half-written file is left"


def test_a_run_that_made_no_step_leaves_no_file(tmp_path: Path) -> None:
    predicted = prediction()
    remember(
        tmp_path / "history.json", run_of(predicted, MemoryEvent(attempt=1, rank=0, bytes=predicted.expected_bytes))
    )
    assert not (tmp_path / "history.json").exists()


def test_a_history_that_is_none_stops_the_run_before_it_starts_and_is_never_overwritten(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, predicted = tmp_path / "history.json", prediction()
    path.write_text("{}")
    with pytest.raises(UnreadableManifest, match="no records"):
        remember(path, run_of(predicted, step(1), MemoryEvent(attempt=1, rank=0, bytes=predicted.expected_bytes)))
    assert path.read_text() == "{}"
    manifest = Path(__file__).parents[2] / "examples" / "minimal.yaml"
    assert main(["run", "-f", str(manifest), "--folder", str(tmp_path)]) == 2
    assert f"{path}: is no History" in capsys.readouterr().err


def test_a_folder_that_cannot_be_made_ends_with_2_and_names_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    manifest = Path(__file__).parents[2] / "examples" / "minimal.yaml"
    assert main(["run", "-f", str(manifest), "--folder", str(tmp_path / "file")]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"finetune run: --folder: {tmp_path / 'file'} cannot be used: ")
    assert len(said.splitlines()) == 1
