"""Which checkpoint an attempt goes on from when some are damaged, and that it writes over none when all are."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest

from finetune_operator.api.exit_codes import ExitCode
from finetune_operator.api.manifest import Manifest
from finetune_operator.api.plan import AttemptFile
from finetune_operator.api.run_events import CheckpointEvent
from finetune_trainer.attempt import Place
from finetune_trainer.checkpoint_reader import Found, find_checkpoint
from finetune_trainer.checkpoint_writer import CheckpointWriter
from finetune_trainer.collective import Collective
from finetune_trainer.failures import TrainerFailure
from finetune_trainer.storage import open_writable

ONLY = Place(0, 1, 0, 1)
FILES = ("adapter_model.safetensors", "optimizer.pt")


def truncate(folder: Path) -> None:
    (folder / FILES[1]).write_bytes(b"half")


def flip_a_bit(folder: Path) -> None:
    content = bytearray((folder / FILES[0]).read_bytes())
    content[3] ^= 1
    (folder / FILES[0]).write_bytes(content)


def remove_a_file(folder: Path) -> None:
    (folder / FILES[0]).unlink()


def tear_the_manifest(folder: Path) -> None:
    path = folder / "manifest.json"
    path.write_bytes(path.read_bytes()[:50])


def give_it_another_job(folder: Path) -> None:
    path = folder / "manifest.json"
    manifest = Manifest.model_validate_json(path.read_text()).model_copy(update={"uid": "another"})
    path.write_text(manifest.model_dump_json(by_alias=True))


def remove_the_manifest(folder: Path) -> None:
    (folder / "manifest.json").unlink()


def cut_the_upload_off(folder: Path) -> None:
    remove_the_manifest(folder)
    remove_a_file(folder)


DAMAGES = [
    (truncate, "optimizer.pt has 4 bytes instead of"),
    (flip_a_bit, "another SHA-256"),
    (remove_a_file, "adapter_model.safetensors is not there"),
    (tear_the_manifest, "manifest is not readable"),
    (give_it_another_job, "belongs to another job"),
]
WITHOUT_MANIFEST = [(remove_the_manifest, "the upload was cut off"), (cut_the_upload_off, "the upload was cut off")]


def save(attempt: AttemptFile, step: int, scratch: Path) -> Path:
    """Write a checkpoint as an attempt does, and return its folder."""
    staged = scratch / f"staged-{step}"
    staged.mkdir()
    for name in FILES:
        (staged / name).write_bytes(f"{name} of step {step}".encode())
    storage = open_writable(attempt.checkpoint_uri)
    writer = CheckpointWriter(attempt, ONLY, storage, Collective(1), start=1, verified=None)
    writer.begin(step, staged, 0.0)
    writer.close()
    return Path(attempt.checkpoint_uri.removeprefix("file://")) / f"step-{step:08d}" / "1"


def find(attempt: AttemptFile, target: Path) -> tuple[Found, list[CheckpointEvent]]:
    events: list[CheckpointEvent] = []
    storage = open_writable(attempt.checkpoint_uri)
    found = find_checkpoint(attempt, ONLY, storage, Collective(1), target, on_rejected=events.append)
    return found, events


def digests(folder: Path) -> dict[str, str]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.mark.parametrize(("damage", "problem"), [*DAMAGES, *WITHOUT_MANIFEST])
def test_a_bad_newest_checkpoint_is_told_and_the_one_before_is_used(
    damage: Callable[[Path], None], problem: str, attempt: AttemptFile, tmp_path: Path
) -> None:
    save(attempt, 2, tmp_path)
    damage(save(attempt, 4, tmp_path))

    found, events = find(attempt, tmp_path / "resume")

    assert found.manifest is not None
    assert found.manifest.step == 2
    assert (tmp_path / "resume" / FILES[0]).read_text() == f"{FILES[0]} of step 2"
    assert [(event.step, event.verified) for event in events] == [(4, False)]
    assert problem in events[0].problem


def test_when_every_checkpoint_is_damaged_the_attempt_fails_and_writes_nothing(
    attempt: AttemptFile, tmp_path: Path
) -> None:
    for step, (damage, _) in enumerate(DAMAGES, 1):
        damage(save(attempt, step, tmp_path))
    before = digests(tmp_path / "out")

    with pytest.raises(TrainerFailure, match=r"none of the job's checkpoints .* can be used") as failed:
        find(attempt, tmp_path / "resume")

    assert failed.value.exit_code is ExitCode.CHECKPOINTS_UNUSABLE
    assert digests(tmp_path / "out") == before


def test_a_job_that_has_never_committed_a_checkpoint_starts_afresh(attempt: AttemptFile, tmp_path: Path) -> None:
    cut_the_upload_off(save(attempt, 2, tmp_path))

    found, events = find(attempt, tmp_path / "resume")

    assert (found.folder, [event.step for event in events]) == (None, [2])
    assert found.start == 2
