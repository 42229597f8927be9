"""From the final checkpoint to a model that others can load: verified, exported, tried, described, uploaded, its manifest last.

It can be run again at any time: what this job has published already is left as it is, and a training is never lost by a failure here.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

from finetune_operator.api.constants import MANIFEST_FILE
from finetune_operator.api.evaluated import Evaluated
from finetune_operator.api.exit_codes import ExitCode
from finetune_operator.api.manifest import FileEntry, Manifest
from finetune_operator.api.plan import AttemptFile
from finetune_operator.api.progress import TerminationMessage
from finetune_operator.api.reasons import Reason
from finetune_operator.api.recipe import written_recipe
from finetune_operator.api.run_events import PublishEvent
from finetune_trainer.after_training.results import check_requirements, evaluation_of
from finetune_trainer.attempt import Workplace, read_attempt
from finetune_trainer.checkpoint_location import read_manifest
from finetune_trainer.checkpoint_writer import installed_versions
from finetune_trainer.events import EventLog
from finetune_trainer.failures import calls_of, failure_of
from finetune_trainer.final_checkpoint import final_checkpoint
from finetune_trainer.inputs import fetch_model, go_offline
from finetune_trainer.launch import write_termination
from finetune_trainer.measure import resident_memory
from finetune_trainer.publish.destinations import send
from finetune_trainer.publish.own_result import build_own_result
from finetune_trainer.result_target import claim, model_at, output_exists, release
from finetune_trainer.storage import ObjectStorage, open_writable
from finetune_trainer.storage_errors import AlreadyExists


def publish(plan_path: Path) -> int:
    """Publish the job's model and return the exit code; the termination log has the result's location or the cause."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    evaluated = None
    try:
        attempt = read_attempt(plan_path)
        evaluated = evaluation_of(attempt)
        check_requirements(attempt, evaluated)
        manifest = publish_attempt(attempt, evaluated)
    except Exception as error:  # whatever it is, the kubelet is told
        failure = failure_of(error)
        if failure.exit_code is ExitCode.BUG:
            print(calls_of(error), flush=True)
        write_termination(
            TerminationMessage(
                reason=failure.reason, exit_code=failure.exit_code, message=failure.message, evaluation=evaluated
            )
        )
        return int(failure.exit_code)
    write_termination(
        TerminationMessage(
            reason=Reason.PUBLISHED,
            exit_code=ExitCode.OK,
            message=f"{len(manifest.files)} files, {manifest.total_bytes} bytes",
            step=manifest.step,
            checkpoint_step=manifest.step,
            peak_memory_bytes=resident_memory().peak,
            evaluation=evaluated,
            result_uri=attempt.spec.output.uri.rstrip("/"),
            destinations=manifest.destinations,
        )
    )
    return int(ExitCode.OK)


def publish_attempt(attempt: AttemptFile, evaluated: Evaluated | None = None) -> Manifest:
    """Publish the model of the job's final checkpoint and return its manifest; the card tells what it was evaluated to."""
    output = open_writable(attempt.spec.output.uri)
    before = model_at(output, attempt.spec.output, attempt.uid)
    if before is not None and before.uid == attempt.uid:
        print(f"{output.uri} has this job's model already", flush=True)
        _tell(output, before)
        return before
    workplace = Workplace.of(attempt)
    checkpoint = final_checkpoint(attempt, workplace)
    folder = workplace.work / "result"
    shutil.rmtree(folder, ignore_errors=True)
    _build(attempt, workplace, folder, checkpoint, evaluated)
    claim(output, attempt.spec.output, attempt.namespace, attempt.name, attempt.uid)
    if attempt.spec.output.if_exists == "overwrite":
        # From here on there is no other model at that place: its manifest goes first.
        output.delete(MANIFEST_FILE)
    files = tuple(_upload(output, folder, name) for name in _names(folder))
    destinations = send(attempt, folder, files, checkpoint)
    manifest = Manifest(
        kind="model",
        namespace=attempt.namespace,
        job=attempt.name,
        uid=attempt.uid,
        attempt=checkpoint.attempt,
        step=checkpoint.step,
        world_size=1,
        strategy=checkpoint.strategy,
        recipe=written_recipe(attempt.spec, attempt.inspection),
        created_at=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        versions=installed_versions(),
        files=files,
        destinations=destinations,
    )
    _commit(output, attempt, manifest)
    release(output)
    if before is not None:
        kept = {entry.name for entry in files}
        for entry in before.files:
            if entry.name not in kept:
                output.delete(entry.name)
    _tell(output, manifest)
    return manifest


def _build(
    attempt: AttemptFile, workplace: Workplace, folder: Path, checkpoint: Manifest, evaluated: Evaluated | None
) -> None:
    if attempt.spec.trainer is not None:
        build_own_result(attempt, workplace.resume, folder, checkpoint)
        return
    base = None if attempt.spec.tuning.trains_base else fetch_model(attempt, workplace)
    go_offline()
    # It imports torch and transformers: 10 s that a failure above saves.
    from finetune_trainer.publish.result import build_result

    started = time.monotonic()
    build_result(attempt, base, workplace.resume, folder, checkpoint, evaluated)
    print(f"the model was built and tried in {time.monotonic() - started:.1f} s", flush=True)


def _names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def _upload(output: ObjectStorage, folder: Path, name: str) -> FileEntry:
    stored = output.upload(folder / name, name)
    return FileEntry(name=name, size=stored.size, sha256=stored.sha256)


def _commit(output: ObjectStorage, attempt: AttemptFile, manifest: Manifest) -> None:
    try:
        output.put_small(MANIFEST_FILE, manifest.model_dump_json(by_alias=True).encode(), create_only=True)
    except AlreadyExists:
        other = read_manifest(output)
        if other.uid != attempt.uid:
            raise output_exists(attempt.spec.output, other) from None
        # A second publish pod of this job was faster; the files are the same.


def _tell(output: ObjectStorage, manifest: Manifest) -> None:
    EventLog().write(PublishEvent(uri=output.uri, files=manifest.files, destinations=manifest.destinations))
    sys.stdout.flush()
