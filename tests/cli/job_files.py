"""Manifests and models as files: what the tests of `finetune plan` start from."""

from __future__ import annotations

import json
from pathlib import Path

MANIFEST = """
apiVersion: finetune-operator.dev/v1alpha1
kind: FineTuneJob
metadata: {{name: tune}}
spec:
  model: {{uri: "{model}"}}
  dataset: {{uri: "{dataset}"}}
  tuning: {{method: {method}}}
  resources: {resources}
  output: {{uri: "s3://models/tune"}}
"""

TINY = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 160,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "vocab_size": 512,
}


def write_job(
    folder: Path,
    *,
    model: str = "hf://meta-llama/Meta-Llama-3-8B",
    dataset: str = "s3://data/rows.jsonl",
    method: str = "lora",
    resources: str = "{}",
) -> str:
    path = folder / "job.yaml"
    path.write_text(MANIFEST.format(model=model, dataset=dataset, method=method, resources=resources))
    return str(path)


def write_model(folder: Path) -> str:
    (folder / "model").mkdir()
    (folder / "model" / "config.json").write_text(json.dumps(TINY))
    return f"file://{folder / 'model'}"
