"""What an interrupted download has left: its complete files are gigabytes that need not come again, once their hashes are compared.

Each complete file has a note beside it with its size and sha256; what has none was being written when the process was killed.
"""

from __future__ import annotations

import contextlib
import hashlib
from pathlib import Path
from typing import Final

from pydantic import ValidationError

from finetune_operator.api.manifest import FileEntry

_SUFFIX: Final = ".complete"


def note_complete(folder: Path, entry: FileEntry) -> None:
    """Write down that a file is complete; it must be on the disk."""
    _note(folder, entry.name).write_text(entry.model_dump_json(by_alias=True))


def remove_notes(folder: Path) -> None:
    """Delete the notes of a download that is finished as a whole."""
    for note in folder.glob(f".*{_SUFFIX}"):
        note.unlink()


def tidy(folder: Path) -> dict[str, FileEntry]:
    """Delete what is not complete and return the rest by name; the files are not hashed yet."""
    entries: dict[str, FileEntry] = {}
    for note in folder.glob(f".*{_SUFFIX}"):
        with contextlib.suppress(ValidationError, FileNotFoundError):
            entry = FileEntry.model_validate_json(note.read_bytes())
            if note == _note(folder, entry.name) and (folder / entry.name).exists():
                entries[entry.name] = entry
    for path in folder.iterdir():
        if path.is_file() and path.name not in entries and path.suffix != _SUFFIX:
            path.unlink(missing_ok=True)
    return entries


def take_over(folder: Path, entry: FileEntry, target: Path) -> bool:
    """Move a complete file to `target` if it still has the bytes that its note tells; False when it has not, or is gone."""
    path = folder / entry.name
    try:
        with path.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != entry.sha256:
                return False
        path.rename(target)
    except FileNotFoundError:
        return False
    return True


def _note(folder: Path, name: str) -> Path:
    return folder / f".{name}{_SUFFIX}"
