"""The operator as a user installs it, and the inputs of a job as a user uploads them."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from testbed.helm import Helm
from testbed.s3 import S3Server

ROOT = Path(__file__).resolve().parents[3]
REAL_DATA = ROOT.parent / "shared" / "data" / "gsm8k" / "train.jsonl"
RELEASE = "finetune-operator"
OPERATOR_NAMESPACE = "finetune-system"
TERMINAL_STATES = ("Complete", "Failed")


@dataclass(frozen=True)
class Inputs:
    """What a job reads, in a folder of this machine and in the bucket."""

    rows: Path
    model: Path


def make_inputs(folder: Path) -> Inputs:
    """Make the tiny model, and take the real data set where the team's shared folder is, else the generated one."""
    folder.mkdir(parents=True, exist_ok=True)
    rows, model = folder / "rows.jsonl", folder / "model"
    if REAL_DATA.exists():
        rows.write_bytes(REAL_DATA.read_bytes())
    else:
        _python("examples/data/make_arithmetic.py", "--rows", "7473", "--output", rows)
    _python("examples/demo/make_model.py", "--data", rows, "--output", model)
    return Inputs(rows, model)


def upload(server: S3Server, inputs: Inputs) -> None:
    """Put the inputs where examples/sft-lora.yaml looks for them."""
    for bucket in ("data", "models"):
        server.create_bucket(bucket)
    client = server.client()
    client.upload_file(str(inputs.rows), "data", "word-problems.jsonl")
    for path in sorted(inputs.model.iterdir()):
        client.upload_file(str(path), "models", f"tiny-llama/{path.name}")


def install(helm: Helm, values: dict[str, Any]) -> None:
    """Install the chart and wait until the operator is ready."""
    arguments = ["--namespace", OPERATOR_NAMESPACE, "--create-namespace", "--wait", "--timeout", "90s", "--values", "-"]
    chart = ROOT / "charts" / "finetune-operator"
    helm("upgrade", "--install", RELEASE, chart, *arguments, stdin=json.dumps(values))


def image_values(operator: str, inspect: str, trainer: str) -> dict[str, Any]:
    """The chart's values for images that are on the node already."""

    def image(reference: str) -> dict[str, str]:
        repository, _, tag = reference.rpartition(":")
        return {"repository": repository, "tag": tag}

    return {
        "operator": {"image": {**image(operator), "pullPolicy": "Never"}},
        "images": {"inspect": image(inspect), "trainer": image(trainer), "pullPolicy": "Never"},
    }


def example(name: str, **changes: Any) -> dict[str, Any]:
    """One of the examples, with `path.in.the.manifest=value` changed; dots in keyword names are written as __."""
    manifest: dict[str, Any] = copy.deepcopy(yaml.safe_load((ROOT / "examples" / name).read_text()))
    for path, value in changes.items():
        *parents, last = path.split("__")
        place = manifest
        for parent in parents:
            place = place.setdefault(parent, {})
        place[last] = value
    return manifest


def condition(job: dict[str, Any], kind: str) -> dict[str, Any]:
    """The condition of that type, or an empty one."""
    conditions = job.get("status", {}).get("conditions", [])
    return next((c for c in conditions if c["type"] == kind), {})


def ended(job: dict[str, Any]) -> bool:
    """Whether the job has come to its end; a wait for it fails early when the end is another one."""
    return job.get("status", {}).get("state") in TERMINAL_STATES


def _python(script: str, *arguments: object) -> None:
    subprocess.run([sys.executable, str(ROOT / script), *map(str, arguments)], check=True, cwd=ROOT)
