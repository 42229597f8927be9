"""`python -m finetune_trainer checkpoints list|verify|download URI`: what lies in a bucket, read by the code that resumes from it.

`finetune checkpoints` starts it and shows its JSON lines to people.
"""

from __future__ import annotations

import argparse
import hashlib
import shutil
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from finetune_operator.api.checkpoint_listing import ByteProgress, CheckpointMessage, StoredCheckpoint
from finetune_operator.api.constants import MANIFEST_FILE
from finetune_operator.api.exit_codes import ExitCode
from finetune_operator.api.manifest import FileEntry
from finetune_trainer.checkpoint_location import Located, locate
from finetune_trainer.checkpoint_reader import PARALLEL_FILES
from finetune_trainer.failures import TrainerFailure, failure_of

PROGRESS_SECONDS: Final = 0.2

Tell = Callable[[CheckpointMessage], None]


class Progress:
    """Counts bytes of several threads, and tells them now and then."""

    def __init__(self, total: int, tell: Tell) -> None:
        self._done, self._total, self._tell = 0, total, tell
        self._lock, self._told = threading.Lock(), 0.0

    def add(self, count: int) -> None:
        """Count bytes that were hashed."""
        with self._lock:
            self._done += count
            now = time.monotonic()
            if now - self._told < PROGRESS_SECONDS and self._done < self._total:
                return
            self._told = now
            self._tell(CheckpointMessage(progress=ByteProgress(done=self._done, total=self._total)))


def described(found: Located) -> StoredCheckpoint:
    """Return what the manifest tells."""
    known = StoredCheckpoint(
        uri=found.storage.uri,
        step=found.name.step,
        attempt=found.name.attempt,
        start=found.name.start,
        state="committed" if found.is_committed else "unfinished",
        problem="" if found.is_committed else "no manifest: an upload that is under way, or was cut off",
    )
    if not found.is_committed:
        return known
    manifest = found.manifest()
    if isinstance(manifest, str):
        return known.model_copy(update={"state": "damaged", "problem": manifest})
    facts = {
        "job": f"{manifest.namespace}/{manifest.job}",
        "files": len(manifest.files),
        "total_bytes": manifest.total_bytes,
        "processes": manifest.world_size,
        "strategy": manifest.strategy,
        "written": manifest.created_at,
    }
    return known.model_copy(update=facts)


def verify(found: Sequence[Located], tell: Tell) -> tuple[StoredCheckpoint, ...]:
    """Hash every byte of every committed checkpoint and return them with what was found."""
    known = [(each, described(each)) for each in found]
    progress = Progress(sum(facts.total_bytes or 0 for _, facts in known), tell)
    return tuple(_verified(each, facts, progress) for each, facts in known)


def _verified(found: Located, facts: StoredCheckpoint, progress: Progress) -> StoredCheckpoint:
    manifest = found.manifest() if facts.state == "committed" else ""
    if isinstance(manifest, str):
        return facts
    stored = {file.name: file.size for file in found.storage.list()}

    def problem_of(entry: FileEntry) -> str | None:
        if entry.name not in stored:
            return f"{entry.name} is missing"
        if stored[entry.name] != entry.size:
            return f"{entry.name} has {stored[entry.name]} bytes instead of {entry.size}"
        digest = hashlib.sha256()
        for chunk in found.storage.stream(entry.name):
            digest.update(chunk)
            progress.add(len(chunk))
        return (
            None if digest.hexdigest() == entry.sha256 else f"{entry.name} has another SHA-256 than its manifest says"
        )

    with ThreadPoolExecutor(PARALLEL_FILES, thread_name_prefix="verify") as pool:
        problems = [problem for problem in pool.map(problem_of, manifest.files) if problem]
    if not problems:
        return facts.model_copy(update={"state": "verified"})
    more = f", and {len(problems) - 1} more" if len(problems) > 1 else ""
    return facts.model_copy(update={"state": "damaged", "problem": problems[0] + more})


def download(found: Sequence[Located], target: Path, tell: Tell) -> StoredCheckpoint:
    """Download the newest committed checkpoint into `target`, whole and verified, or not at all.

    Raises:
        TrainerFailure: there is none, `target` is in use, or the files are not what the manifest says.
    """
    chosen = next((each for each in found if each.is_committed), None)
    if chosen is None:
        raise TrainerFailure(ExitCode.NOT_FOUND, f"{found[0].storage.uri}: no checkpoint with a manifest is there")
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise TrainerFailure(
            ExitCode.BAD_SPEC, f"{target} exists and is not an empty folder; name another one with --to"
        )
    manifest = chosen.manifest()
    if isinstance(manifest, str):
        raise TrainerFailure(ExitCode.BAD_DATA, f"{chosen.storage.uri}: {manifest}")
    partial = target.with_name(f"{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    progress = Progress(manifest.total_bytes, tell)

    def fetch(entry: FileEntry) -> str | None:
        stored = chosen.storage.download(entry.name, partial / entry.name)
        progress.add(entry.size)
        return None if (stored.size, stored.sha256) == (entry.size, entry.sha256) else entry.name

    try:
        with ThreadPoolExecutor(PARALLEL_FILES, thread_name_prefix="download") as pool:
            wrong = next((name for name in pool.map(fetch, manifest.files) if name), None)
        if wrong is not None:
            raise TrainerFailure(
                ExitCode.BAD_DATA,
                f"{chosen.storage.uri}: {wrong} is not what the manifest says; try an older one: name its folder",
            )
        (partial / MANIFEST_FILE).write_bytes(chosen.storage.read(MANIFEST_FILE))
        if target.exists():
            target.rmdir()
        partial.replace(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return described(chosen).model_copy(update={"state": "verified"})


def run(arguments: Sequence[str]) -> int:
    """Run the command and return its exit code: 41 when a checkpoint is damaged."""
    parser = argparse.ArgumentParser("finetune_trainer checkpoints", description=__doc__)
    parser.add_argument("action", choices=("list", "verify", "download"))
    parser.add_argument("uri")
    parser.add_argument("--to", type=Path, default=Path("checkpoint"))
    options = parser.parse_args(arguments)
    try:
        found = locate(options.uri)
        if options.action == "list":
            answer = CheckpointMessage(checkpoints=tuple(described(each) for each in found))
        elif options.action == "verify":
            answer = CheckpointMessage(checkpoints=verify(found, _print))
        else:
            fetched = download(found, options.to.absolute(), _print)
            answer = CheckpointMessage(checkpoints=(fetched,), folder=str(options.to.absolute()))
    except Exception as error:  # the caller shows its words; the calls that led there are for bugs alone
        failure = failure_of(error)
        if failure.exit_code is ExitCode.BUG:
            raise
        print(failure.message, file=sys.stderr)
        return int(failure.exit_code)
    _print(answer)
    damaged = any(checkpoint.state == "damaged" for checkpoint in answer.checkpoints or ())
    return int(ExitCode.BAD_DATA) if damaged else int(ExitCode.OK)


def _print(message: CheckpointMessage) -> None:
    print(message.model_dump_json(by_alias=True, exclude_none=True), flush=True)
