"""A user's own script: its folder is saved whole, restored after a kill, and what it leaves is published; transformers tells its progress itself."""

from __future__ import annotations

import asyncio
import os
import signal
import ssl
import subprocess
import textwrap
import time
from pathlib import Path
from typing import Any, Final

import pytest
from aiohttp.test_utils import TestServer

from finetune_operator.api.constants import progress_path
from finetune_operator.api.exit_codes import ExitCode
from finetune_operator.api.plan import GIB, AttemptFile, Plan
from finetune_operator.api.reasons import Reason
from finetune_operator.api.spec import Checkpoint
from finetune_operator.api.trainer import (
    BEGIN_FILE,
    CONTROL,
    EXIT_FILE,
    KEEPER_FILE,
    RESULT,
    SCRIPT_FOLDER,
    progress_environment,
    script_environment,
)
from finetune_operator.controller.kube import FINETUNE_JOBS
from finetune_operator.controller.metrics import OperatorMetrics
from finetune_operator.controller.progress_server import ProgressServer
from finetune_operator.planner.inventory import CpuNodes, Inventory
from finetune_operator.planner.plan import make_plan
from finetune_operator.testing import FakeApi, FakeClock, finetune_job, pod
from finetune_operator.testing.operated_cluster import TINY_LLAMA
from finetune_trainer.publish.command import publish_attempt
from finetune_trainer.script_folder import look, newest_step
from finetune_trainer.script_process import start_locally
from finetune_trainer.testing import arithmetic_rows, write_rows
from finetune_trainer.testing_ranks import RankServer
from finetune_trainer.testing_scripts import ScriptPod, saved_steps, scripted

EXAMPLE: Final = Path(__file__).parents[2] / "examples" / "own_script" / "train.py"
COUNTS: Final = """
import os, pathlib, signal, sys, time
folder = pathlib.Path(os.environ["FINETUNE_CHECKPOINT_FOLDER"])
saved = sorted(int(path.name.removeprefix("checkpoint-")) for path in folder.iterdir())
begin, end = (saved[-1] if saved else 0), int(os.environ["STEPS"])
signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
for step in range(begin + 1, end + 1):
    (folder / f"checkpoint-{step}").mkdir()
    (folder / f"checkpoint-{step}" / "state").write_text(f"{begin} to {step}")
    (folder.parent / "ready").touch()
    while step == int(os.environ.get("WAITS_AT", "0")) and not (folder.parent.parent / "go on").exists():
        time.sleep(0.05)
    if step == int(os.environ.get("FAILS_AT", "0")):
        sys.exit(int(os.environ.get("CODE", "7")))
(pathlib.Path(os.environ["FINETUNE_RESULT_FOLDER"]) / "model.bin").write_text(f"after {end} steps from {begin}")
"""


@pytest.fixture
def script(tmp_path: Path) -> Path:
    path = tmp_path / "count.py"
    path.write_text(textwrap.dedent(COUNTS))
    return path


def test_a_script_that_failed_goes_on_from_its_newest_checkpoint_and_is_published(
    attempt: AttemptFile, script: Path, tmp_path: Path
) -> None:
    def stop_when_saved(pod: ScriptPod, process: subprocess.Popen[bytes]) -> None:
        if saved_steps(pod.attempt)[-1:] == [3] and not pod.is_stopped:
            pod.is_stopped = True
            process.terminate()

    first, second = scripted(attempt, script), scripted(attempt, script, number=2)
    stopped = ScriptPod(first, tmp_path / "first").run(stop_when_saved, STEPS="6", WAITS_AT="3")
    assert (stopped.exit_code, stopped.reason) == (ExitCode.TERMINATED, Reason.TERMINATED)

    ended = ScriptPod(second, tmp_path / "second").run(STEPS="6")
    assert ended.exit_code is ExitCode.OK
    assert saved_steps(second)[-1] >= 6
    again = ScriptPod(second, tmp_path / "third").run(STEPS="6", FAILS_AT="1")  # it does not begin again
    assert again.exit_code is ExitCode.OK

    os.environ["FINETUNE_WORK_DIRECTORY"] = str(tmp_path / "publish")
    try:
        manifest = publish_attempt(second)
    finally:
        del os.environ["FINETUNE_WORK_DIRECTORY"]
    output = tmp_path / "out"
    assert manifest.recipe is None  # nobody knows what a script has done
    assert {entry.name for entry in manifest.files} == {"model.bin", "README.md"}
    assert (output / "model.bin").read_text() == "after 6 steps from 3"
    assert "Neither loaded nor tried" in (output / "README.md").read_text()


def test_what_a_crash_leaves_is_saved_when_nothing_was_being_written(
    attempt: AttemptFile, script: Path, tmp_path: Path
) -> None:
    begun: list[float] = []

    def let_it_fail(pod: ScriptPod, process: subprocess.Popen[bytes]) -> None:
        if (pod.folder / "ready").exists():
            begun.append(time.monotonic())
        if begun and time.monotonic() - begun[0] > 1:
            (pod.place.work / "go on").touch()

    rarely = scripted(attempt, script)
    rarely = rarely.model_copy(update={"spec": rarely.spec.model_copy(update={"checkpoint": Checkpoint(every="1h")})})
    crashed = ScriptPod(rarely, tmp_path / "first").run(let_it_fail, STEPS="6", WAITS_AT="2", FAILS_AT="2")

    assert crashed.exit_code is ExitCode.BUG
    assert saved_steps(rarely) == [2]


@pytest.mark.parametrize(
    ("code", "expected", "says"),
    [(7, ExitCode.BUG, "exited with 7; its log"), (int(ExitCode.BAD_DATA), ExitCode.BAD_DATA, "which means")],
)
def test_the_exit_code_of_a_script_is_told(
    code: int, expected: ExitCode, says: str, attempt: AttemptFile, script: Path, tmp_path: Path
) -> None:
    cause = ScriptPod(scripted(attempt, script), tmp_path / "work").run(STEPS="3", FAILS_AT="2", CODE=str(code))

    assert cause.exit_code is expected
    assert says in cause.message


def test_a_script_that_is_killed_with_its_shell_is_noticed(attempt: AttemptFile, script: Path, tmp_path: Path) -> None:
    def kill(pod: ScriptPod, process: subprocess.Popen[bytes]) -> None:
        if (pod.folder / "ready").exists() and process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)

    cause = ScriptPod(scripted(attempt, script), tmp_path / "work").run(
        kill, limits={"lost_seconds": 3}, STEPS="2", WAITS_AT="1"
    )

    assert (cause.exit_code, cause.reason) == (ExitCode.KILLED, Reason.RANK_KILLED)


def test_a_script_that_nobody_saves_any_more_is_stopped(attempt: AttemptFile, script: Path, tmp_path: Path) -> None:
    own = ScriptPod(scripted(attempt, script), tmp_path / "work")
    process = start_locally(
        own.attempt, tmp_path / "plan.json", own.place, {**os.environ, "STEPS": "2", "WAITS_AT": "1"}
    )
    for folder in ("checkpoints", "export"):
        (own.folder / folder).mkdir(parents=True)
    control = own.place.work / CONTROL
    (control / KEEPER_FILE).touch()
    os.utime(control / KEEPER_FILE, (0, 0))
    (control / BEGIN_FILE).touch()

    assert process.wait(30) != 0
    assert (control / EXIT_FILE).exists()


def test_a_folder_that_is_written_to_is_not_taken_for_whole(tmp_path: Path) -> None:
    (tmp_path / "checkpoint-20").mkdir()
    (tmp_path / "checkpoint-20" / "weights").write_text("half")
    before = look(tmp_path)
    before.link(tmp_path, tmp_path.with_name("linked"))
    assert (newest_step(before), before.is_whole) == (20, True)
    assert before.is_unchanged_in(tmp_path.with_name("linked"))

    with (tmp_path / "checkpoint-20" / "weights").open("a") as file:
        file.write(" and more")
    assert not before.is_unchanged_in(tmp_path.with_name("linked"))
    (tmp_path / "checkpoint-20" / "checkpoint-is-incomplete.txt").touch()
    assert not look(tmp_path).is_whole


async def test_an_unmodified_transformers_script_tells_its_progress(
    ranks: RankServer, tiny_model: Path, tmp_path: Path
) -> None:
    api = FakeApi(FakeClock())
    job = api.seed(finetune_job())
    metadata = api.seed(pod("tune-1-0-x"))["metadata"]
    identity = {"pod-name": [metadata["name"]], "pod-uid": [metadata["uid"]]}
    extra = {f"authentication.kubernetes.io/{name}": value for name, value in identity.items()}
    api.tokens["secret"] = {"username": "system:serviceaccount:team:sa", "extra": extra}
    token, certificate, key = tmp_path / "token", tmp_path / "ca.crt", tmp_path / "key.pem"
    token.write_text("secret")
    subject = ["-subj", "/CN=progress", "-addext", "subjectAltName=IP:127.0.0.1"]
    request = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-keyout",
        str(key),
        "-out",
        str(certificate),
    ]
    await asyncio.to_thread(subprocess.run, [*request, *subject], check=True, capture_output=True)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    turns = [row["messages"] for row in arithmetic_rows(16)]
    rows = [{"prompt": f"{question['content']} ", "completion": answer["content"]} for question, answer in turns]
    data = write_rows(tmp_path / "rows.jsonl", rows)
    server = TestServer(ProgressServer(api, FakeClock(), OperatorMetrics()).app, scheme="https")
    await server.start_server(ssl=context)
    try:
        url = f"https://127.0.0.1:{server.port}{progress_path('team', 'tune', 'progress')}"
        environment = {
            **script_environment(str(tmp_path), "plan.json", pods=1, processes_per_pod=1, host="127.0.0.1", port=1),
            **progress_environment(url, str(certificate), str(token)),
            "MODEL": str(tiny_model),
            "DATA": str(data),
            "STEPS": "3",
            "CUDA_VISIBLE_DEVICES": "",
        }
        await asyncio.to_thread(
            ranks.call, "finetune_trainer.testing_cases:script_case", script=str(EXAMPLE), environment=environment
        )
    finally:
        await server.close()

    shown: dict[str, Any] = (api.find(FINETUNE_JOBS, "team", job["metadata"]["name"]) or {})["status"]["progress"]
    assert (shown["percentage"], shown["attempt"]) == (100, 1)
    assert shown["totalSteps"] == 3
    assert (tmp_path / SCRIPT_FOLDER / RESULT / "model.safetensors").exists()


def test_a_plan_says_what_is_not_known_of_a_script_and_teaches_nothing(attempt: AttemptFile, script: Path) -> None:
    node = Inventory(cpu_nodes=(CpuNodes(nodes=1, cpu_millicores=4000, memory_bytes=24 * GIB),))
    own, ours = (
        make_plan(each.spec, None, node, config=TINY_LLAMA, rows=64) for each in (scripted(attempt, script), attempt)
    )

    assert isinstance(own, Plan)
    assert isinstance(ours, Plan)
    assert "whether the script obeys tuning, training, strategy and batch is not known" in own.reasons[0]
    assert own.prediction is None
    assert own.model_copy(update={"prediction": ours.prediction, "reasons": ours.reasons}) == ours
