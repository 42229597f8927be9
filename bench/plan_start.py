"""How long `finetune plan` takes from process start to the printed plan: `python bench/plan_start.py`; prints JSON, seconds.

Modules are compiled before the first measured run, as pip compiles them when it installs a package, whatever PYTHONDONTWRITEBYTECODE says
here. CPU times beside wall times: those of a busy machine tell of the others.
"""

from __future__ import annotations

import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

JOB = """
apiVersion: finetune-operator.dev/v1alpha1
kind: FineTuneJob
metadata: {name: bench}
spec:
  model: {uri: "hf://meta-llama/Llama-3.1-70B-Instruct"}
  dataset: {uri: "s3://data/rows.jsonl"}
  tuning: {method: lora}
  output: {uri: "s3://models/bench"}
"""
RUNS = 7


def seconds_of(output: str, folder: Path) -> tuple[float, float]:
    """Return the wall-clock and CPU seconds of one `finetune plan` of the manifest in `folder`."""
    command = [sys.executable, "-m", "finetune_operator.cli.main", "plan", "-f", str(folder / "job.yaml"), "-o", output]
    environment = {**os.environ, "PYTHONPYCACHEPREFIX": str(folder / "bytecode"), "PYTHONDONTWRITEBYTECODE": ""}
    start, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, capture_output=True, env=environment)
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    """Measure both outputs; the first run, which compiles, is thrown away."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "job.yaml").write_text(JOB)
        result: dict[str, object] = {"model": "70B LoRA, whole catalogue", "runs": RUNS}
        for output in ("table", "json"):
            seconds_of(output, folder)
            walls, cpus = zip(*(seconds_of(output, folder) for _ in range(RUNS)), strict=True)
            result[f"{output}_median_seconds"] = round(statistics.median(walls), 3)
            result[f"{output}_max_seconds"] = round(max(walls), 3)
            result[f"{output}_median_cpu_seconds"] = round(statistics.median(cpus), 3)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
