"""TensorBoard's event files: every job has them in its bucket."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from finetune_operator.api.plan import AttemptFile
from finetune_trainer.trackers.tracker import Record, Told, settings_of


class TensorBoard:
    """One file per attempt. Each begins by taking back the steps after its start, which an attempt that was cut off may have written."""

    name = "tensorboard"

    def __init__(self, attempt: AttemptFile, folder: Path, step: int) -> None:
        self._attempt, self.folder, self._step = attempt, folder, step
        self._writer: Any = None

    def open(self, told: Told) -> Told:
        """Begin a file; the reader forgets what older files say of later steps (purge_step), so nothing needs to be left out."""
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(
            str(self.folder),
            purge_step=self._step + 1 if self._step else None,
            filename_suffix=f".attempt-{self._attempt.attempt}",
        )
        if not self._step:
            lines = (f"| {name} | {value} |" for name, value in settings_of(self._attempt).items())
            self._writer.add_text("job", "\n".join(("| setting | value |", "|---|---|", *lines)))
        return {}

    def tell(self, records: tuple[Record, ...]) -> None:
        """Append to the file."""
        for record in records:
            for name, value in record.named.items():
                self._writer.add_scalar(name, value, record.step)

    def flush(self) -> bool:
        """Write what is buffered."""
        self._writer.flush()
        return True

    def close(self, ended: Literal["finished", "failed"]) -> None:
        """Close the file."""
        self._writer.close()
