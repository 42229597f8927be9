"""Jobs for GPU nodes that exist in the API only: no trainer runs, so the tests report in the pods' place, with the pods' tokens."""

from __future__ import annotations

import time
from typing import Any

from finetune_operator.api.constants import API_VERSION, progress_path
from finetune_operator.api.inspection import inspection_key
from finetune_operator.api.job import FineTuneJob
from testbed.control_plane import ControlPlane
from testbed.operator_process import OperatorProcess, pod_token, wait_for_pod

LLAMA_8B = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "vocab_size": 128256,
    "tie_word_embeddings": False,
}


def manifest(name: str, seconds: int = 3, exit_code: int = 0, **spec: Any) -> dict[str, Any]:
    """A job whose fake pods run that long and end with that code."""
    fate = {"fake/duration": f"{seconds}s", "fake/exit-code": str(exit_code)}
    return {
        "apiVersion": API_VERSION,
        "kind": "FineTuneJob",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {
            "model": {"uri": "hf://meta-llama/Llama-3.1-8B-Instruct"},
            "dataset": {"uri": f"s3://data/{name}.jsonl"},
            "output": {"uri": f"s3://models/{name}"},
            "pod": {"annotations": fate},
            **spec,
        },
    }


def report(job: dict[str, Any]) -> dict[str, Any]:
    """An inspection report as the inspect pod would send it."""
    metadata = job["metadata"]
    spec = FineTuneJob.from_manifest(job).spec
    return {
        "version": 1,
        "key": inspection_key(metadata["namespace"], spec),
        "job": f"{metadata['namespace']}/{metadata['name']}",
        "finishedAt": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "seconds": 1.0,
        "model": {
            "uri": spec.model.uri,
            "revision": "0e9e39f249a16976918f6564b8830bc894c89659",
            "architecture": "LlamaForCausalLM",
            "config": LLAMA_8B,
            "parameters": 8030261248,
            "weightBytes": 16060522496,
            "dtypes": {"BF16": 8030261248},
            "files": [],
        },
        "dataset": {
            "uri": spec.data_uri,
            "format": "messages",
            "files": [],
            "rows": 6400,
            "tokens": {
                "edges": [8, 2048],
                "counts": [6400],
                "minimum": 10,
                "maximum": 1900,
                "mean": 500.0,
                "median": 480,
                "percentile99": 1500,
                "total": 3200000,
            },
        },
    }


def inspect(cluster: ControlPlane, operator: OperatorProcess, job: dict[str, Any]) -> None:
    """Be the inspect pod: report with its token."""
    name = job["metadata"]["name"]
    pod = wait_for_pod(cluster, f"finetune-operator.dev/job={name},finetune-operator.dev/component=inspect")
    token = pod_token(cluster, pod["metadata"]["name"])
    status, text = operator.post(progress_path("default", name, "inspection"), report(job), token)
    assert status in (200, 201, 204), text


def quota(memory: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """A quota for pods of one priority class, so that it does not bind the other tests."""
    chosen = {"scopeName": "PriorityClass", "operator": "In", "values": ["bounded"]}
    spec = {"hard": {"requests.memory": memory}, "scopeSelector": {"matchExpressions": [chosen]}}
    return (
        {"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": "bounded"}, "value": 10},
        {
            "apiVersion": "v1",
            "kind": "ResourceQuota",
            "metadata": {"name": "bounded", "namespace": "default"},
            "spec": spec,
        },
    )
