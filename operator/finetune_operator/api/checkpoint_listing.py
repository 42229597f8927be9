"""What `finetune checkpoints` learns of the checkpoints in a bucket: JSON lines between the trainer's libraries and the command line."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from finetune_operator.api.model import ReadModel

CheckpointState = Literal["committed", "unfinished", "verified", "damaged"]


class StoredCheckpoint(ReadModel):
    """One checkpoint as its manifest tells it; without a manifest only its name is known."""

    uri: str = Field(description="Its folder.")
    step: int
    attempt: int
    start: int = Field(1, description="Which start of the attempt wrote it.")
    state: CheckpointState = Field(
        description="committed: its manifest is there; unfinished: it is not; verified and damaged: every byte was hashed."
    )
    problem: str = Field("", description="What is wrong with it.")
    job: str | None = Field(None, description="namespace/name of the job that wrote it.")
    files: int | None = None
    total_bytes: int | None = None
    processes: int | None = None
    strategy: str | None = None
    written: str | None = Field(None, description="RFC 3339, UTC.")


class ByteProgress(ReadModel):
    """How far a verification or a download is."""

    done: int
    total: int


class CheckpointMessage(ReadModel):
    """One line: progress, or at the end the checkpoints."""

    progress: ByteProgress | None = None
    checkpoints: tuple[StoredCheckpoint, ...] | None = None
    folder: str | None = Field(None, description="download: where the files are.")
