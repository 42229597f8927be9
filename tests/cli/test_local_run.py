"""What `finetune run` makes of this machine and of a trainer's own account."""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path
from typing import IO

from hypothesis import given
from hypothesis import strategies as st

from finetune_operator.api.reasons import Reason
from finetune_operator.api.run_events import CheckpointEvent, MemoryEvent, RunEvent, StepEvent
from finetune_operator.api.time_spent import TimeSpent
from finetune_operator.cli.local_machine import inventory_of_this_machine, parse_gpu_list
from finetune_operator.cli.run_report import RunRecord
from finetune_operator.cli.trainer_process import EventReader, TrainerProcess, read_termination
from finetune_trainer.testing import tiny_plan


def step(number: int, attempt: int = 1, loss: float = 1.0) -> StepEvent:
    return StepEvent(attempt=attempt, step=number, total_steps=10, loss=loss, learning_rate=1e-4, tokens=8, seconds=0.5)


def record(*events: RunEvent) -> RunRecord:
    made = RunRecord()
    for event in events:
        made.add(event)
    return made


def test_this_machine_has_cores_memory_and_disk(tmp_path: Path) -> None:
    (node,) = inventory_of_this_machine(tmp_path).cpu_nodes
    assert node.cpu_millicores >= 1000
    assert node.memory_bytes > 2**30
    assert node.ephemeral_storage_bytes > 0


def test_equal_gpus_are_counted_and_named_as_node_labels_name_them() -> None:
    text = "NVIDIA H100 80GB HBM3, 81559\nNVIDIA H100 80GB HBM3, 81559\nTesla T4, 15360\n"
    assert parse_gpu_list(text) == {("NVIDIA-H100-80GB-HBM3", 81559): 2, ("Tesla-T4", 15360): 1}


def test_no_gpu_is_no_line() -> None:
    assert parse_gpu_list("") == {}


def test_a_gpu_without_memory_of_its_own_is_not_planned_for() -> None:
    assert parse_gpu_list("NVIDIA GB10, [N/A]\n") == {}


def test_a_step_that_was_made_twice_counts_with_its_second_loss() -> None:
    made = record(step(1), step(2, loss=9.0), step(2, attempt=2, loss=0.5))
    assert [(event.step, event.loss) for event in made.final_losses()] == [(1, 1.0), (2, 0.5)]


def test_the_peak_of_a_rank_is_the_highest_of_all_attempts() -> None:
    peaks = [MemoryEvent(attempt=a, rank=0, bytes=b) for a, b in ((1, 10), (2, 30), (3, 20))]
    assert record(*peaks).peak_bytes_by_rank() == {0: 30}


def test_only_whole_lines_are_read(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    reader = EventReader(path)
    assert reader.new_events() == []
    line = step(1).model_dump_json(by_alias=True)
    path.write_text(f"{line}\n{line[:20]}")
    assert [event.step for event in reader.new_events() if isinstance(event, StepEvent)] == [1]
    path.write_text(f"{line}\n{line}\n")
    assert len(reader.new_events()) == 1


@given(st.lists(st.integers(1, 60), max_size=8))
def test_events_arrive_once_and_in_order_however_the_file_grows(pieces: list[int]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "events.jsonl"
        text = "".join(f"{step(n).model_dump_json(by_alias=True)}\n" for n in range(1, 4)).encode()
        reader, seen, written = EventReader(path), [], 0
        for piece in [*pieces, len(text)]:
            written = min(len(text), written + piece)
            path.write_bytes(text[:written])
            seen += reader.new_events()
        assert [event.step for event in seen if isinstance(event, StepEvent)] == [1, 2, 3]


def test_a_process_that_left_no_message_is_explained_by_its_exit_code(tmp_path: Path) -> None:
    message = read_termination(tmp_path / "absent", -9, tmp_path / "attempt-1.log")
    assert message.exit_code == 137
    assert message.reason is Reason.RANK_KILLED
    assert "attempt-1.log" in message.message


def test_rejected_checkpoints_stand_in_the_record() -> None:
    bad = CheckpointEvent(attempt=2, step=20, uri="file:///x", verified=False, bytes=7, problem="sha256 differs")
    assert record(bad).checkpoints == [bad]


def test_a_folder_for_models_reaches_the_trainer_and_nothing_else_does(tmp_path: Path) -> None:
    seen: list[str | None] = []

    class Listening(TrainerProcess):
        def _start(
            self, arguments: tuple[str, ...], environment: dict[str, str], output: IO[bytes]
        ) -> subprocess.Popen[bytes]:
            seen.append(environment.get("FINETUNE_MODEL_CACHE"))
            return subprocess.Popen(["true"])

    Listening(tmp_path, tmp_path / "models").run("attempt-1", "launch")
    Listening(tmp_path).run("attempt-1", "launch")
    assert seen == [str(tmp_path / "models"), None]


def test_the_report_tells_what_time_all_attempts_have_lost() -> None:
    made = record(step(1), step(2, attempt=2))
    made.add_time(TimeSpent(lost={"import": 15.0, "load": 1.0}))
    made.add_time(None)  # killed without a word
    made.add_time(TimeSpent(lost={"import": 14.0, "replay": 2.5}))
    metrics = made.report(tiny_plan())["metrics"]
    assert {name: value for name, value in metrics.items() if name.startswith("lost_seconds")} == {
        "lost_seconds_import": 29.0,
        "lost_seconds_load": 1.0,
        "lost_seconds_replay": 2.5,
    }
