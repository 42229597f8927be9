"""The manifest that makes a checkpoint or a model exist: every file with its size and sha256, written last and create-only."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from finetune_operator.api.model import ReadModel
from finetune_operator.api.recipe import Recipe


class FileEntry(ReadModel):
    """One file below the manifest's folder."""

    name: str = Field(description="Path relative to the manifest's folder.")
    size: int = Field(description="Bytes.")
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


class Manifest(ReadModel):
    """What a folder holds, and whose it is."""

    version: int = 1
    kind: Literal["checkpoint", "model"]
    namespace: str
    job: str
    uid: str
    attempt: int
    step: int = Field(description="Optimizer steps that were finished.")
    is_final: bool = Field(
        False, description="The training ended with it before the plan's last step (training.earlyStopping)."
    )
    world_size: int = Field(description="Processes that wrote it.")
    strategy: str
    offload: str = Field(
        "none",
        description="What was in host memory between uses, or on local disk (nvme): those states resume each other alone.",
    )
    plan: str = Field(
        "", description="What of the plan decides its memory; a resume by the same one is not probed again."
    )
    recipe: Recipe | None = Field(
        None,
        description="What it was trained by: another job goes on from a checkpoint only with the same, and tells of it where it starts from a model.",
    )
    created_at: str = Field(description="RFC 3339, UTC.")
    versions: dict[str, str] = Field(description="Library versions, such as {torch: 2.13.0}.")
    files: tuple[FileEntry, ...]
    destinations: tuple[str, ...] = Field(
        (),
        description="Where else the model is (output.oci, output.hub), each with the digest or commit of what was sent.",
    )

    @property
    def total_bytes(self) -> int:
        """Bytes of all files together."""
        return sum(entry.size for entry in self.files)
