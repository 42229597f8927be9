"""Several pods of a user's own script: one checkpoint has the folder of each, committed when all are at its step, and each pod gets them all back."""

from __future__ import annotations

import subprocess
import textwrap
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_operator.api.exit_codes import ExitCode
from finetune_operator.api.plan import AttemptFile
from finetune_operator.api.reasons import Reason
from finetune_operator.api.spec import Checkpoint
from finetune_trainer.causes import Cause
from finetune_trainer.checkpoint_names import CheckpointFolder
from finetune_trainer.publish.command import publish_attempt
from finetune_trainer.script_folder import look
from finetune_trainer.script_other_pods import PodLimits
from finetune_trainer.script_pods import Request, begun_file, is_answerable, open_request, part_file, share_out
from finetune_trainer.testing_scripts import Meanwhile, ScriptPod, saved_steps, scripted

SHARDS: Final = """
import os, pathlib, sys, time
rank, shelf = os.environ["PET_NODE_RANK"], pathlib.Path(os.environ["SHELF"])
folder = pathlib.Path(os.environ["FINETUNE_CHECKPOINT_FOLDER"])
begin = max((int(path.name.removeprefix("checkpoint-")) for path in folder.iterdir()), default=0)
seen = sorted(path.name for path in (folder / f"checkpoint-{begin}").glob("*"))
for step in range(begin + 1, begin + 3):
    saved = folder / f"checkpoint-{step}"
    partial = saved.with_name("partial")
    partial.mkdir()
    (partial / f"shard-{rank}").write_text(f"of {rank} at {step}")
    (partial / "random").write_text(rank)
    partial.rename(saved)
    while not any(shelf.glob(f"step-{step:08d}/*/manifest.json")):  # as peers that compute together are at one step
        time.sleep(0.02)
if begin == 0:
    sys.exit(7)
result = pathlib.Path(os.environ["FINETUNE_RESULT_FOLDER"])
(result / "model.bin").write_text(f"by {rank}")
(result / f"shard-{rank}.bin").write_text(f"{begin} {seen} {(folder / f'checkpoint-{begin}' / 'random').read_text()}")
"""
LIMITS: Final = PodLimits(look=0.1, answer=1, send=5)


def run_pods(
    attempt: AttemptFile, folder: Path, limits: PodLimits = LIMITS, meanwhile: Meanwhile | None = None
) -> list[Cause]:
    """Run both pods of an attempt to their ends."""
    shelf = attempt.checkpoint_uri.removeprefix("file://")

    broken = threading.Event()

    def end_with_the_other(pod: ScriptPod, process: subprocess.Popen[bytes]) -> None:
        if meanwhile is not None:
            meanwhile(pod, process)
        if broken.is_set() and not pod.is_stopped:
            pod.is_stopped = True
            process.terminate()

    def run(index: int) -> Cause:
        pod = ScriptPod(attempt, folder / str(index), index)
        try:
            return pod.run(end_with_the_other, limits={"pod_limits": limits}, PET_NODE_RANK=str(index), SHELF=shelf)
        except BaseException:
            broken.set()
            raise

    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(run, range(2)))


@pytest.fixture
def two_pods(attempt: AttemptFile, tmp_path: Path) -> AttemptFile:
    """An attempt of two pods whose scripts shard their state."""
    script = tmp_path / "shard.py"
    script.write_text(textwrap.dedent(SHARDS))
    return scripted(attempt.model_copy(update={"plan": attempt.plan.model_copy(update={"pods": 2})}), script)


def test_every_pods_folder_is_saved_restored_to_all_and_published(
    two_pods: AttemptFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed = run_pods(two_pods, tmp_path / "first")
    assert {cause.exit_code for cause in failed} == {ExitCode.BUG}
    assert saved_steps(two_pods) == [1, 2]

    second = two_pods.model_copy(update={"attempt": 2})
    assert [cause.exit_code for cause in run_pods(second, tmp_path / "second")] == [ExitCode.OK, ExitCode.OK]

    monkeypatch.setenv("FINETUNE_WORK_DIRECTORY", str(tmp_path / "publish"))
    manifest = publish_attempt(second)
    published = {entry.name: (tmp_path / "out" / entry.name).read_text() for entry in manifest.files}
    del published["README.md"]
    assert published == {
        "model.bin": "by 0",
        "shard-0.bin": "2 ['random', 'shard-0', 'shard-1'] 0",
        "shard-1.bin": "2 ['random', 'shard-0', 'shard-1'] 1",
    }
    assert saved_steps(second) == [3, 4, 5][-second.spec.checkpoint.keep :], "older ones are deleted"
    shelf = Path(second.checkpoint_uri.removeprefix("file://"))
    saved = look(shelf / f"step-{saved_steps(second)[-1]:08d}" / "2").files
    assert "checkpoints/checkpoint-3/shard-0" in saved
    assert "pod-1/checkpoints/checkpoint-3/shard-1" in saved
    assert "pod-1/checkpoints/checkpoint-2/shard-0" not in saved, "what a pod was given is not its own to save"


def test_a_checkpoint_of_which_one_pods_part_is_damaged_is_not_gone_on_from(
    two_pods: AttemptFile, tmp_path: Path
) -> None:
    run_pods(two_pods, tmp_path / "first")
    shelf = Path(two_pods.checkpoint_uri.removeprefix("file://"))
    (shelf / "step-00000002" / "1" / "pod-1" / "checkpoints" / "checkpoint-2" / "shard-1").write_text("something else")

    ended = run_pods(two_pods.model_copy(update={"attempt": 2}), tmp_path / "second")

    assert [cause.exit_code for cause in ended] == [ExitCode.OK, ExitCode.OK]
    left = tmp_path / "second" / "1" / "script" / "export" / "shard-1.bin"
    assert left.read_text().startswith("1 [")


def test_pods_that_are_stopped_together_save_the_step_that_they_are_at(two_pods: AttemptFile, tmp_path: Path) -> None:
    def stop(pod: ScriptPod, process: subprocess.Popen[bytes]) -> None:
        if not pod.is_stopped and all(
            (tmp_path / f"{index}/script/checkpoints/checkpoint-1").exists() for index in range(2)
        ):
            pod.is_stopped = True
            process.terminate()

    rarely = two_pods.spec.model_copy(update={"checkpoint": Checkpoint(every="1h")})
    causes = run_pods(
        two_pods.model_copy(update={"spec": rarely}), tmp_path, PodLimits(look=0.1, answer=60, send=60), stop
    )

    assert {cause.reason for cause in causes} == {Reason.TERMINATED}
    assert saved_steps(two_pods) == [1]


def test_a_pod_that_is_stopped_before_all_have_saved_their_end_has_not_succeeded(
    two_pods: AttemptFile, tmp_path: Path
) -> None:
    script = tmp_path / "end.py"
    script.write_text("import os, pathlib\npathlib.Path(os.environ['FINETUNE_RESULT_FOLDER'], 'model').touch()\n")

    def stop_after_the_end(pod: ScriptPod, process: object) -> None:
        pod.is_stopped = pod.is_stopped or (pod.place.work / "script-control" / "exit").exists()

    causes = []
    for index in range(2):  # one after the other: each is alone at its end
        pod = ScriptPod(scripted(two_pods, script), tmp_path / str(index), index)
        causes.append(pod.run(stop_after_the_end, limits={"pod_limits": PodLimits(look=0.1, answer=0.3, send=0.3)}))

    assert [(cause.exit_code, cause.reason) for cause in causes] == [(ExitCode.TERMINATED, Reason.TERMINATED)] * 2
    assert saved_steps(two_pods) == []


def test_the_newest_open_request_is_answered() -> None:
    def asked(start: int, step: int, *more: str) -> list[str]:
        return [f"{CheckpointFolder(step, 2, start).name}/{name}" for name in ("wanted.json", "checkpoints/a", *more)]

    assert open_request([], 2, 1) is None
    assert open_request(asked(1, 5), 2, 1) == CheckpointFolder(5, 2, 1)
    assert open_request(asked(1, 5), 3, 1) is None, "another attempt's"
    assert open_request([*asked(1, 9), *asked(2, 5)], 2, 1) == CheckpointFolder(5, 2, 2), "a later start's"
    assert open_request(asked(1, 5, part_file(2), begun_file(1)), 2, 1) == CheckpointFolder(5, 2, 1)
    for name in (part_file(1), "manifest.json"):
        assert open_request([*asked(1, 4), *asked(1, 5, name)], 2, 1) is None


def test_a_first_pod_that_alone_saves_is_waited_for_no_longer_than_it_takes_to_be_sure(
    two_pods: AttemptFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = tmp_path / "first.py"
    alone = SHARDS.replace(
        "saved = folder", "saved = (folder if rank == '0' else pathlib.Path(os.environ['ELSEWHERE']))"
    )
    script.write_text(textwrap.dedent(alone))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.setenv("ELSEWHERE", str(tmp_path / "elsewhere"))

    run_pods(scripted(two_pods, script), tmp_path / "first", replace(LIMITS, nothing=0.5))

    assert saved_steps(two_pods) == [1, 2]


@given(st.none() | st.integers(0, 3), st.none() | st.integers(0, 3), st.booleans())
def test_pods_that_number_their_checkpoints_are_at_one_step_or_send_nothing(
    asked: int | None, own: int | None, writes_nothing: bool
) -> None:
    answer = is_answerable(Request(newest=asked, is_final=False), own, writes_nothing=writes_nothing)
    assert answer is (asked is None or asked == own or (own is None and writes_nothing))


@pytest.mark.parametrize(
    ("pod", "pods", "expected", "others"),
    [
        (0, 3, {"a": "0", "b": "1", "c": "2", "d": "1"}, {"b", "c", "d"}),
        (2, 3, {"a": "0", "b": "2", "c": "2", "d": "1"}, {"a", "d"}),
        (0, 1, {"a": "0", "b": "1", "c": "2", "d": "1"}, set()),  # there were three pods before
        (1, 2, {"a": "0", "b": "1", "c": "2", "d": "1"}, {"a", "c"}),
    ],
)
def test_a_pod_gets_its_own_files_and_what_only_others_have(
    pod: int, pods: int, expected: dict[str, str], others: set[str], tmp_path: Path
) -> None:
    for name in ("a", "pod-1/a", "pod-1/b", "pod-2/b", "pod-2/c", "pod-1/d"):
        path = tmp_path / "saved" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name[4] if name.startswith("pod-") else "0")
    expected = {**expected, "a": "1"} if pod == 1 else expected

    given = share_out(tmp_path / "saved", tmp_path / "folder", pod, pods)

    assert {name: (tmp_path / "folder" / name).read_text() for name in look(tmp_path / "folder").files} == expected
    assert set(given.files) == (others - {"a"} if pod == 1 else others)
    assert not (tmp_path / "saved").exists()
