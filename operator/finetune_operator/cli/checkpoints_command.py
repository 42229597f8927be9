"""`finetune checkpoints list|verify|download URI`: what a job has saved, whether every byte of it is there, and a copy of it."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn
from rich.table import Table
from rich.text import Text

from finetune_operator.api.checkpoint_listing import CheckpointMessage, StoredCheckpoint
from finetune_operator.api.plan import GIB

MIB = 2**20
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
    last = CheckpointMessage()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process, _bar(console) as progress:
        task = progress.add_task(options.action, total=None, visible=False)
        for line in process.stdout or ():
            last = CheckpointMessage.model_validate_json(line)
            if last.progress is not None:
                progress.update(task, completed=last.progress.done, total=last.progress.total, visible=True)
    if last.checkpoints is None:
        return process.returncode
    if options.output == "json":
        print(json.dumps(last.model_dump(mode="json", by_alias=True, exclude_none=True), indent=2))
        return process.returncode
    console.print(checkpoints_table(last.checkpoints))
    if last.folder is not None:
        console.print(Text(f"Downloaded to {last.folder}"), soft_wrap=True)
    return process.returncode


def checkpoints_table(checkpoints: tuple[StoredCheckpoint, ...]) -> Table:
    """Return the checkpoints as people read them, with what is wrong with each below its folder."""
    table = Table(box=None, padding=(0, 2, 0, 0))
    for name in ("step", "attempt", "state", "size", "files", "written by", "when (UTC)"):
        table.add_column(name, justify="right" if name in ("step", "size", "files") else "left", no_wrap=True)
    table.add_column("where", overflow="fold")
    for each in checkpoints:
        where = Text(each.uri)
        if each.problem:
            where.append(f"\n{each.problem}", style="yellow")
        table.add_row(
            str(each.step),
            str(each.attempt) if each.start == 1 else f"{each.attempt}, start {each.start}",
            Text(each.state, style=_STYLES[each.state]),
            _size(each.total_bytes),
            "" if each.files is None else str(each.files),
            "" if each.processes is None else f"{each.strategy} × {each.processes}",
            (each.written or "").removesuffix("Z").replace("T", " "),
            where,
        )
    return table


def _size(count: int | None) -> str:
    if count is None:
        return ""
    return f"{count / GIB:.2f} GiB" if count >= GIB else f"{count / MIB:.2f} MiB"


def _bar(console: Console) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(binary_units=True), TransferSpeedColumn())
    return Progress(*columns, TimeRemainingColumn(), console=console, transient=True)
