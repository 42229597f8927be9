"""What `finetune checkpoints` finds in a bucket, what it says of damage, and that a download is whole or nothing."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from finetune_operator.api.checkpoint_listing import CheckpointMessage
from finetune_operator.api.exit_codes import ExitCode
from finetune_operator.api.manifest import FileEntry, Manifest
from finetune_trainer.checkpoint_tool import run

SHELF = "checkpoints/tune-0f1e2d3c"


def commit(root: Path, name: str, *, attempt: int = 1, contents: dict[str, bytes] | None = None) -> Path:
    """Write a checkpoint as an attempt does, its manifest last."""
    folder = root / SHELF / name
    entries = []
    for file, content in (contents or {"model.safetensors": b"weights", "optimizer/0.distcp": b"moments"}).items():
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_bytes(content)
        entries.append(FileEntry(name=file, size=len(content), sha256=hashlib.sha256(content).hexdigest()))
    manifest = Manifest(
        kind="checkpoint",
        namespace="team",
        job="tune",
        uid="0f1e2d3c",
        attempt=attempt,
        step=int(name[5:13]),
        world_size=2,
        strategy="fsdp",
        created_at="2026-01-01T12:00:00Z",
        versions={},
        files=tuple(entries),
    )
    (folder / "manifest.json").write_text(manifest.model_dump_json(by_alias=True))
    return folder


def answer(capsys: pytest.CaptureFixture[str]) -> CheckpointMessage:
    return CheckpointMessage.model_validate(json.loads(capsys.readouterr().out.splitlines()[-1]))


@pytest.mark.parametrize("below", ["", "/checkpoints", f"/{SHELF}"])
def test_checkpoints_are_found_from_the_output_down_the_newest_first(
    below: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    commit(tmp_path, "step-00000002/1")
    commit(tmp_path, "step-00000004/2", attempt=2)
    (tmp_path / SHELF / "step-00000006/2").mkdir(parents=True)
    (tmp_path / SHELF / "step-00000006/2/model.safetensors").write_bytes(b"half")
    (tmp_path / "config.json").write_text("{}")

    assert run(["list", f"file://{tmp_path}{below}"]) == ExitCode.OK

    found = answer(capsys).checkpoints
    assert found is not None
    assert [(each.step, each.attempt, each.state) for each in found] == [
        (6, 2, "unfinished"),
        (4, 2, "committed"),
        (2, 1, "committed"),
    ]
    assert (found[1].job, found[1].files, found[1].total_bytes) == ("team/tune", 2, 14)
    assert (found[1].strategy, found[1].processes) == ("fsdp", 2)


def test_one_checkpoint_can_be_named_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    commit(tmp_path, "step-00000002/1")
    folder = commit(tmp_path, "step-00000004/2-3", attempt=2)

    assert run(["verify", f"file://{folder}"]) == ExitCode.OK

    (found,) = answer(capsys).checkpoints or ()
    assert (found.step, found.attempt, found.start, found.state) == (4, 2, 3, "verified")


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (
            lambda folder: (folder / "model.safetensors").write_bytes(b"weightz"),
            "model.safetensors has another SHA-256",
        ),
        (
            lambda folder: (folder / "model.safetensors").write_bytes(b"weig"),
            "model.safetensors has 4 bytes instead of 7",
        ),
        (lambda folder: (folder / "model.safetensors").unlink(), "model.safetensors is missing"),
        (lambda folder: (folder / "manifest.json").write_text("{}"), "its manifest is not readable"),
    ],
)
def test_damage_is_found_and_named(
    damage: Callable[[Path], object], problem: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    commit(tmp_path, "step-00000002/1")
    damage(commit(tmp_path, "step-00000004/1"))

    assert run(["verify", f"file://{tmp_path}"]) == ExitCode.BAD_DATA

    newest, older = answer(capsys).checkpoints or ()
    assert (newest.state, older.state) == ("damaged", "verified")
    assert newest.problem.startswith(problem)


def test_a_download_is_the_newest_whole_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    commit(tmp_path, "step-00000002/1")
    newest = commit(tmp_path, "step-00000004/1")
    target = tmp_path / "here"

    assert run(["download", f"file://{tmp_path}", "--to", str(target)]) == ExitCode.OK

    message = answer(capsys)
    assert message.folder == str(target)
    names = sorted(path.relative_to(newest) for path in newest.rglob("*"))
    assert sorted(path.relative_to(target) for path in target.rglob("*")) == names
    assert (target / "optimizer/0.distcp").read_bytes() == b"moments"


def test_a_damaged_download_leaves_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = commit(tmp_path, "step-00000004/1")
    (folder / "optimizer/0.distcp").write_bytes(b"momentz")

    assert run(["download", f"file://{folder}", "--to", str(tmp_path / "here")]) == ExitCode.BAD_DATA

    assert "optimizer/0.distcp is not what the manifest says" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoints"]


def test_a_folder_in_use_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    commit(tmp_path, "step-00000004/1")
    (tmp_path / "here").mkdir()
    (tmp_path / "here/mine").touch()

    assert run(["download", f"file://{tmp_path}", "--to", str(tmp_path / "here")]) == ExitCode.BAD_SPEC

    assert "not an empty folder; name another one with --to" in capsys.readouterr().err
    assert (tmp_path / "here/mine").exists()


def test_where_there_is_none_it_says_what_to_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["list", f"file://{tmp_path}"]) == ExitCode.NOT_FOUND
    assert "no checkpoint is there or below; name a job's output.uri or checkpoint.uri" in capsys.readouterr().err
