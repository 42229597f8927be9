"""`finetune checkpoints list|verify|download URI`: what a job has saved, whether every byte of it is there, and a copy of it."""

from __future__ import annotations

import argparse
import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

from rich.console import Console, Group, RenderableType
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn
from rich.table import Table
from rich.text import Text

from finetune_operator.api.checkpoint_listing import ByteProgress, CheckpointMessage, StoredCheckpoint

_STYLES = {"verified": "green", "committed": "", "unfinished": "yellow", "damaged": "red"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "action",
        choices=("list", "verify", "download"),
        help="list: what is there; verify: hash every byte; download: copy the newest one, verified",
    )
    parser.add_argument(
        "uri",
        metavar="URI",
        help="a job's output.uri or checkpoint.uri, the folder of its checkpoints, or one checkpoint",
    )
    parser.add_argument(
        "--to",
        type=Path,
        default=Path("checkpoint"),
        help="download: a folder that is new or empty (default: checkpoint)",
    )
    parser.add_argument("--output", "-o", choices=("table", "json"), default="table", help="table or json")


def run(options: argparse.Namespace) -> int:
    """Run the command and return the exit code: the trainer's own where a store or a checkpoint fails (api/exit_codes.py)."""
    command = [sys.executable, "-m", "finetune_trainer", "checkpoints", options.action, options.uri, "--to", options.to]
    console = Console(highlight=False, stderr=options.output == "json")
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process, _bar(console) as bar:
        last = CheckpointMessage()
        for line in process.stdout or ():
            last = CheckpointMessage.model_validate_json(line)
            if last.progress is not None:
                _show(bar, options.action, last.progress)
    if last.checkpoints is None:
        return process.returncode
    if options.output == "json":
        print(json.dumps(last.model_dump(mode="json", by_alias=True, exclude_none=True), indent=2))
        return process.returncode
    console.print(checkpoints_view(last.checkpoints))
    if last.folder is not None:
        console.print(Text(f"Downloaded to {last.folder}"), soft_wrap=True)
    return process.returncode


def checkpoints_view(checkpoints: tuple[StoredCheckpoint, ...]) -> RenderableType:
    """Return the checkpoints as people read them: a table for each job's folder, and below it what is wrong with which."""
    parts: list[RenderableType] = []
    for folder, group in groupby(checkpoints, key=lambda each: each.uri.rsplit("/", 2)[0]):
        each = tuple(group)
        parts += [Text(folder, style="bold", overflow="fold"), _table(each)]
        parts += [Text(f"{_name(one)}: {one.problem}", style="yellow") for one in each if one.problem]
    return Group(*parts)


def _table(checkpoints: tuple[StoredCheckpoint, ...]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0))
    for name in ("checkpoint", "state", "size", "files", "written by", "when (UTC)"):
        table.add_column(name, justify="right" if name in ("size", "files") else "left", no_wrap=True)
    for each in checkpoints:
        table.add_row(
            _name(each),
            Text(each.state, style=_STYLES[each.state]),
            "" if each.total_bytes is None else _size(each.total_bytes),
            "" if each.files is None else str(each.files),
            "" if each.processes is None else f"{each.strategy} × {each.processes}",
            (each.written or "").removesuffix("Z").replace("T", " "),
        )
    return table


def _size(count: int) -> str:
    size, unit = float(count), "B"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if size < 1024:
            break
        size, unit = size / 1024, larger
    return f"{count} B" if unit == "B" else f"{size:.2f} {unit}"


def _name(checkpoint: StoredCheckpoint) -> str:
    return "/".join(checkpoint.uri.rsplit("/", 2)[1:])


@contextlib.contextmanager
def _bar(console: Console) -> Iterator[Progress]:
    """Yield a bar that is not started: one that ends without having shown a task leaves an empty line."""
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(binary_units=True), TransferSpeedColumn())
    bar = Progress(*columns, TimeRemainingColumn(), console=console, transient=True)
    try:
        yield bar
    finally:
        if bar.live.is_started:
            bar.stop()


def _show(bar: Progress, action: str, progress: ByteProgress) -> None:
    if not bar.tasks:
        bar.add_task(action, total=progress.total)
        bar.start()
    bar.update(bar.tasks[0].id, completed=progress.done)
