"""The folders of test runs, `run-PID`: a run that was killed cannot clean up, so whoever comes next does.

The logs of the last runs stay for reading; everything else is deleted.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from testbed.node import NodeCluster
from testbed.processes import start_time

KEPT_RUNS = 5


def sweep(runs: Path) -> None:
    """End and delete what the runs left whose process has ended; runs that go on are left alone."""
    ended = [run for run in runs.glob("run-*") if start_time(int(run.name.removeprefix("run-"))) is None]
    ended.sort(key=lambda run: run.stat().st_mtime)
    for run in ended:
        for cluster in run.iterdir():
            NodeCluster(cluster).stop()
            delete_all_but_logs(cluster)
    for run in ended[:-KEPT_RUNS]:
        shutil.rmtree(run)


def delete_all_but_logs(cluster: Path) -> None:
    """Give back the disk of a cluster's data, and its keys."""
    for path in cluster.iterdir():
        if path.name in ("logs", "pod-logs"):
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
