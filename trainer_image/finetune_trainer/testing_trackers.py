"""What trackers were told, read back by their own libraries, for tests."""

from __future__ import annotations

import json
import os
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from transformers import TrainerCallback

from finetune_trainer.trackers.trackers import show_libraries

_BLOCK: Final = 32768


def mlflow_runs(uri: str, experiment: str) -> list[dict[str, Any]]:
    """Return the runs of an experiment with every value of every metric, as (step, value)."""
    show_libraries()
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=uri)
    found = client.get_experiment_by_name(experiment)
    runs = client.search_runs([found.experiment_id]) if found else []
    return [
        {
            "status": run.info.status,
            "parameters": run.data.params,
            "metrics": {
                name: [(each.step, each.value) for each in client.get_metric_history(run.info.run_id, name)]
                for name in run.data.metrics
            },
        }
        for run in runs
    ]


def _records(content: bytes) -> Iterator[bytes]:
    """Yield what a transaction log holds: LevelDB's log format (doc/log_format.md there) after 7 bytes of W&B's own, which count as of the block."""
    place, parts = 7, b""
    while place + 7 <= len(content):
        if _BLOCK - place % _BLOCK < 7:
            place += _BLOCK - place % _BLOCK
            continue
        length, kind = struct.unpack_from("<4xHB", content, place)
        if kind == 0:
            return
        parts += content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield parts
            parts = b""


class Told(TrainerCallback):
    """`told:<step>:<least>:<names>`: waits after a step until the bucket says of these trackers (a+b) that they were told an earlier one."""

    def __init__(self, rank: int, step: str, least: str, names: str) -> None:
        self._step, self._least, self._names = int(step), int(least), names.split("+")

    def on_step_end(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        """Wait for a minute at most."""
        deadline = time.monotonic() + 60
        while state.global_step == self._step and time.monotonic() < deadline and not self._all_told():
            time.sleep(0.05)

    def _all_told(self) -> bool:
        found = Path(os.environ["FINETUNE_TEST_OUTPUT"]).glob("tracking/*/*/told.json")
        told = {path.parent.name: json.loads(path.read_text() or "{}").get("train", 0) for path in found}
        return all(told.get(name, 0) >= self._least for name in self._names)


def wandb_history(folder: Path) -> list[dict[str, Any]]:
    """Return the rows of offline runs, in the order of their files."""
    show_libraries()
    from wandb.proto import wandb_internal_pb2

    rows = []
    for path in sorted(folder.glob("attempt-*/wandb/offline-run-*/*.wandb")):
        for data in _records(path.read_bytes()):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(data)
            if record.WhichOneof("record_type") == "history":
                items = {item.key or "/".join(item.nested_key): item.value_json for item in record.history.item}
                rows.append({name: json.loads(value) for name, value in items.items()})
    return rows
