"""How long `finetune plan` takes from process start to the printed plan: `python bench/plan_start.py`; prints JSON, seconds."""

from __future__ import annotations

import json
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
RUNS = 5


def seconds_of(output: str, manifest: Path) -> float:
    """Return the wall-clock seconds of one `finetune plan`."""
    command = [sys.executable, "-m", "finetune_operator.cli.main", "plan", "-f", str(manifest), "-o", output]
    start = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - start


def main() -> None:
    """Measure both outputs; the first run, which may compile bytecode, is thrown away."""
    with tempfile.TemporaryDirectory() as folder:
        manifest = Path(folder) / "job.yaml"
        manifest.write_text(JOB)
        result: dict[str, object] = {"model": "70B LoRA, whole catalogue", "runs": RUNS}
        for output in ("table", "json"):
            seconds_of(output, manifest)
            runs = [seconds_of(output, manifest) for _ in range(RUNS)]
            result[f"{output}_median_seconds"] = round(statistics.median(runs), 3)
            result[f"{output}_max_seconds"] = round(max(runs), 3)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
